"""From a network and images to a program, and the programs of one network."""
