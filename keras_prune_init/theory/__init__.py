"""Mean field theory: initial weights, signals, and what pruning does to them."""
