"""A grid of training runs, one process each, and the table of what they reached."""
