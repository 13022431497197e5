"""Makes values of a model's text, and holds it to a schema or a form."""
