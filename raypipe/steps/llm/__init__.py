"""Steps that ask a model, and what a function is given to ask one with."""
