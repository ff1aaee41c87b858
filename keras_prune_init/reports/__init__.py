"""Reports: what a model costs, what was pruned, and what is still in use."""
