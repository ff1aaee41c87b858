"""Run a grid of trainings, one process each, and make a table of the results."""
