"""Masks, allocation, layers and model surgery: what pruning is made of."""
