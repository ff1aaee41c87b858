"""The training binary, `python -m keras_prune_init.train`, and what it is made of."""
