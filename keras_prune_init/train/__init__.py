"""The training binary, `python -m keras_prune_init.train`, and its parts."""
