"""Trains anything that has .loss(batch, generator): UniAdGen and the VQ."""
