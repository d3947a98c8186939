"""Capture a network, record the trail of an image, and run the network symbolically along it."""
