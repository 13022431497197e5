"""Joins named steps by edges, and says whether they are sound. Knows nothing of how they are run."""
