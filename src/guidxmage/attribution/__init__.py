"""The numbers: what is attributed to which target, in which space."""
