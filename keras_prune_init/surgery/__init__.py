"""Make a copy of a model with other layers in it."""
