"""Says what a step, a model and a declaration are. Knows no implementation of any of them."""
