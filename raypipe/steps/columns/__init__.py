"""Steps that choose, combine, format and filter columns. They ask no model."""
