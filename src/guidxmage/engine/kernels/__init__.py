"""Loops over decisions, packed bits and memory layouts."""
