"""Carries rows from step to step until each has ended. Knows pools and workers by name only."""
