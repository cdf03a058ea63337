"""Generators x requests x measures -> one table with intervals and tests: where our numbers come from."""
