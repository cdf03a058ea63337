"""Measures of made ads, each with its own intervals and its own traps written down."""
