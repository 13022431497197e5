"""Reads and writes pipeline files, and refuses what it does not know. Runs nothing."""
