"""Makes steps of functions, and of classes with one method over many rows."""
