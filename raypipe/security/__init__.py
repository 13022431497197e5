"""Keeps what others wrote, in files, texts and tables, from reaching, holding up or learning what it may not.

Knows no steps, no models and no runs. What is promised stands in SECURITY.md.
"""
