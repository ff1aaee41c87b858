"""Layers of low rank: the matrix of a kernel, and two smaller layers in its place."""
