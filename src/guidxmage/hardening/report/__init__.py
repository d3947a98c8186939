"""What came out of a hardening experiment, in words, tables and pictures."""
