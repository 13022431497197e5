"""Turns Python values and Arrow tables into each other unchanged, and picks, cuts and bounds them. Opens no file."""
