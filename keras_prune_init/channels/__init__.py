"""Whole channels: which can be removed, which are chosen, and how they are cut out."""
