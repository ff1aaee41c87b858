"""What Keras layers are to pruning: their types, their kernels, and the wrappers."""
