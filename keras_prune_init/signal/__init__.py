"""How signals and gradients travel through deep networks: the theory of the paper."""
