"""Makes text of a row, in bounded time: templates and what they may do. Asks nobody."""
