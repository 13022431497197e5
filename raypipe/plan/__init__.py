"""Turns a sound graph into ordered stages with resources. Starts nothing."""
