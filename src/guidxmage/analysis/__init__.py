"""What several images, or a line between two, tell about a network."""
