"""The photos that methods are compared on."""
