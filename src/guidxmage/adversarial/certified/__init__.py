"""The smallest adversarial sample of a small network, with a certificate."""
