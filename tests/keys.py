"""A key that must be found nowhere, and the variable in which workers of Ray have it."""

from __future__ import annotations

CANARY = "sk-canary-8d2f4b61c7"
KEY_OF_WORKERS = "KEY_OF_WORKERS"
"""Workers of Ray have the environment that it was started in."""
