"""RigL: grow the weights with the largest gradients."""

import numpy as np

from keras_prune_init.callbacks.drop_and_grow import DropAndGrow


class RigL(DropAndGrow):
    """Drop the smallest weights, and grow those with the largest gradients.

    At equal sparsity it is better than static masks by some points. Start with a random
    mask: `kpi.prune(model, None, "random", sparsity=0.98, allocation="erk")`. Every
    change takes one more pass over its batch, with gradients of the dense kernels. The
    step itself trains, too; the authors leave it out.

    The settings of Liu et al. 2021 explore more, and are better if there are many
    steps: `fraction=0.5, every=4000` for batches of 128.

    Args:
        fraction: Of the kept weights, the part that the first changes move. It falls to
            0 along a cosine.
        every: Number of steps between changes.
        begin: Number of steps before the first change can be.
        end: Number of steps after which masks stay. Default: three quarters of the
            steps of `fit`, all epochs counted.
        seed: Not used; the same for all rules.

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
    >>> rule = kpi.callbacks.RigL(every=2)
    >>> _ = pruned.fit(x, y, epochs=3, verbose=0, callbacks=[rule])
    >>> round(kpi.report(pruned).sparsity, 2)
    0.9

    Reference:
        Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery: Making All Tickets
        Winners", 2020, arXiv 1911.11134. Liu, Yin, Mocanu, Pechenizkiy, "Do We Actually
        Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse
        Training", 2021, arXiv 2102.02887.
    """

    needs_gradients = True

    def grow(self, moment):
        return {path: np.abs(g) for path, g in moment.gradients.items()}
