"""Whole channels: which can go, which do, and how they are cut out."""
