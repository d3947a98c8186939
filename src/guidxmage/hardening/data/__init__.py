"""Data sets whose objects are known."""
