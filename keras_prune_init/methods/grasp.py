"""GraSP, the Hessian criterion (HBP): score = w * (H g), no absolute value.

H and g are Hessian and gradient of the loss of logits / T, T = 200. Removing the weight
with the smallest score hurts the gradient flow g'g least.

Deviations from the authors' code: the last layer is not drawn anew for scoring, scores
are not divided by |their sum|, and a batch is not split in halves to save memory (with
batch statistics the halves would give other gradients). T applies to outputs that the
loss takes for logits or probabilities of a cross-entropy; all others stay as they are.
"""

from __future__ import annotations

from keras_prune_init._arguments import is_number
from keras_prune_init.methods.base import DataMethod
from keras_prune_init.scoring.temperature import OTHER


class GraSP(DataMethod):
    """Keep the weights that carry the gradient flow after pruning.

    Args:
        temperature: What logits are divided by before the loss, positive. Losses that
            are no cross-entropy have none, and `report` says so.
        **options: See `DataMethod`.

    Reference:
        Wang, Zhang, Grosse, "Picking Winning Tickets Before Training by Preserving
        Gradient Flow", arXiv 2002.07376.
    """

    def __init__(self, *, temperature: float = 200.0, **options):
        super().__init__(**options)
        if not is_number(temperature) or temperature <= 0:
            raise ValueError(
                "`temperature` must be a positive number. Received: temperature="
                f"{temperature!r}. The authors take 200."
            )
        self.temperature = float(temperature)

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
        products = network.hessian_gradient(weights, self.batch_norm, self.temperature)
        return [w * h for w, h in zip(weights, products, strict=True)]
