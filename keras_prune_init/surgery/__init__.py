"""A copy of a model with other layers in it."""
