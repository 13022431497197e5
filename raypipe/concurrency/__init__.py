"""Owns tasks, threads and waits: each has somebody who hears of its end. Knows nothing of what they do."""
