"""What pruning knows of Keras layers: their types, their kernels, and the wrappers."""
