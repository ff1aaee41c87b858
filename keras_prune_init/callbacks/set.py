"""SET: sparse evolutionary training."""

from keras_prune_init.callbacks.drop_and_grow import DropAndGrow


class SET(DropAndGrow):
    """Drop the smallest weights, and grow as many at random positions.

    Take `RigL`, which grows those with the largest gradients, unless its passes over
    the dense kernels cost too much. This one needs none.

    Args:
        fraction: Of the kept weights, the part that the first changes move. It falls to
            0 along a cosine.
        every: Number of steps between changes.
        begin: Number of steps before the first change can be.
        end: Number of steps after which masks stay. Default: three quarters of the
            steps of `fit`, all epochs counted.
        seed: Seed of the positions.

    Raises:
        ValueError: If an argument is out of range, or the model cannot be trained in
            this way.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> x, y = np.random.rand(64, 8), np.arange(64) % 2
    >>> model = kpi.models.mlp((8,), classes=2, depth=2, width=16)
    >>> pruned = kpi.prune(model, None, "random", sparsity=0.9, allocation="erk")
    >>> pruned.compile("adam", "sparse_categorical_crossentropy")
    >>> rule = kpi.callbacks.SET(every=2)
    >>> _ = pruned.fit(x, y, epochs=3, verbose=0, callbacks=[rule])
    >>> round(kpi.report(pruned).sparsity, 2)
    0.9

    Reference:
        Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive
        Sparse Connectivity inspired by Network Science", 2018, arXiv 1707.04780.
    """

    def grow(self, moment):
        return {
            path: moment.generator(path).random(mask.shape)
            for path, mask in moment.masks.items()
        }
