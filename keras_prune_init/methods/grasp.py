"""GraSP, the Hessian criterion (HBP): score = w * (H g), without an absolute value.

H and g are the Hessian and the gradient of the loss of logits / T, with T = 200. The
weight with the smallest score reduces the gradient flow g'g least when it is removed.

Differences from the authors' code: the last layer is not drawn anew for scoring. Scores
are not divided by |their sum|. A batch is not split in halves to save memory, because
with batch statistics the halves would give other gradients. T applies only to outputs
that the loss treats as logits or probabilities of a cross-entropy. Each batch has its
own g. The authors take the g of all batches together, which is `pooled` here: the more
images it has, the more it is what they have in common, and the weights that are left
send all images to features on one line.
"""

from __future__ import annotations

from keras_prune_init._arguments import check_flag, is_number
from keras_prune_init.methods.base import DataMethod
from keras_prune_init.scoring.temperature import OTHER


class GraSP(DataMethod):
    """Keep the weights that preserve the gradient flow after pruning.

    Args:
        temperature: A positive number that logits are divided by before the loss. It
            applies only to a cross-entropy; for another loss `report` says so.
        pooled: Whether H and g are those of all batches together, as the authors have
            it. By default the products H g of single batches are summed up, as training
            takes single batches, too. With one batch both are the same. Pooled, more
            batches give worse masks.
        **options: `batch_norm`, `iterations` and `schedule`, as in `DataMethod`.

    Raises:
        ValueError: If an option has no such value.

    Example:

    >>> import keras_prune_init as kpi
    >>> kpi.methods.GraSP(temperature=1.0).temperature
    1.0

    Reference:
        Wang, Zhang, Grosse, 2020, arXiv 2002.07376.
    """

    def __init__(self, *, temperature: float = 200.0, pooled: bool = False, **options):
        super().__init__(**options)
        check_flag("pooled", pooled)
        if not is_number(temperature) or temperature <= 0:
            raise ValueError(
                "`temperature` must be a positive number. Received: temperature="
                f"{temperature!r}. The authors take 200."
            )
        self.temperature = float(temperature)
        self.pooled = pooled

    def remark(self, network):
        if self.temperature == 1 or OTHER not in network.loss.kinds:
            return ""
        kinds = network.loss.kinds
        every = "" if set(kinds) <= {OTHER, None} else " of some outputs"
        return (
            f"GraSP: without the temperature of {self.temperature:g}, as the loss"
            f"{every} is no cross-entropy."
        )

    def scores(self, network, weights):
        settings = self.batch_norm, self.temperature
        if self.pooled:
            products = network.hessian_gradient(weights, *settings)
        else:
            products = network.hessian_vector(weights, None, *settings)
        return [w * h for w, h in zip(weights, products, strict=True)]
