"""What can be proved about an explanation, and how somebody else can check it."""
