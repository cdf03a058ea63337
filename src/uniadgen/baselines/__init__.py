"""Rivals of our model behind its own protocol: what is compared meets the same requests with the same seeds."""
