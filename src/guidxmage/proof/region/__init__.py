"""How far the linear region reaches."""
