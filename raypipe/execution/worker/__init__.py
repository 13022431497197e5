"""Runs steps on the rows of one pool. Knows nothing of the way of a row from step to step."""
