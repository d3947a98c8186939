"""What is done for one photo or result after another."""
