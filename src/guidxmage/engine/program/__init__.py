"""The captured program and the loops over it."""
