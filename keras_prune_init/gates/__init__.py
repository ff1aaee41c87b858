"""Hard-concrete gates: learn in training which weights to remove."""
