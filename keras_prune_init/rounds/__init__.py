"""Prune a trained model in rounds, with training after each of them."""
