"""What rounding does to decisions and numbers."""
