"""Counts of a model: what it costs, what was pruned, what is still in use."""
