"""Keeps files, folders, locks and tables, here or at an address, whole or not at all. Knows nothing of pipelines."""
