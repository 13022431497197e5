"""Runs a graph once: opens the run folder, chooses the executor, commits outputs, writes the manifest."""
