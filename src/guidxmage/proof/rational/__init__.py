"""Small networks over the rationals, and what a solver says of them."""
