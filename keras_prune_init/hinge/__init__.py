"""Group sparsity, the hinge between filter pruning and decomposition."""
