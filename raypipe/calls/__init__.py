"""Remembers every model call, so that none is paid twice. Knows rows and steps by name only."""
