"""What training sees besides the images themselves."""
