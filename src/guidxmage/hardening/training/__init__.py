"""Training and the networks that are trained."""
