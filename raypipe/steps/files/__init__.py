"""Reads one file of rows as Arrow tables. Knows nothing of steps that load them."""
