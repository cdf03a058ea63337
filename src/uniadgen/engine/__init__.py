"""A batch becomes tokens."""
