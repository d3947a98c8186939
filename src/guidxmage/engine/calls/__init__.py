"""One call of the captured program."""
