"""Every decision of a run, and the numbers recorded at smooth operators."""
