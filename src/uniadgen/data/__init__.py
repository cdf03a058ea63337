"""A click log becomes a batch."""
