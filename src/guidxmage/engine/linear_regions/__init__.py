"""The regions along a line, their boundary, and the network as ReLUs."""
