"""Runs a model here: vLLM's engine inside the process that asks it.

Nothing of vLLM is imported until a model is opened.
"""
