"""Runs steps on the rows of one model's pool; only here does an exception become a failed row."""
