"""The rescaling trick: bring a network back to the edge of chaos after pruning.

A mask removes part of the variance of the weights, and puts a network that was on the
edge of chaos in the ordered phase. The kept weights of each output unit i are therefore
multiplied by rho_i = sigma_w / sqrt(sum_j (W_ij mask_ij)^2), with the sigma_w of the
edge of chaos. The formula as printed in the paper lacks sigma_w, which is right only
for tanh without biases; the authors' code has it.
"""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_prune_init._arguments import check_choice, check_flag, is_number
from keras_prune_init.graph.residual import residual_additions
from keras_prune_init.graph.wiring import Node, flat_graph
from keras_prune_init.layers.kernels import Kernel
from keras_prune_init.layers.types import Trait, has
from keras_prune_init.layers.walk import is_composite
from keras_prune_init.surgery.exchange import check_pruned, masked_layers
from keras_prune_init.theory.edges import edges
from keras_prune_init.theory.matrices import from_matrices, matrix_kernels, to_matrices
from keras_prune_init.theory.mean_field import LARGEST, Activation, edge_of_chaos
from keras_prune_init.theory.phase import bias_deviation, energy


def rescale(
    model: keras.Model,
    activation: Activation | None = None,
    *,
    granularity: str = "unit",
    sigma_w: float | None = None,
    force: bool = False,
) -> None:
    """Bring a pruned network back to the edge of chaos, in place, through `scale`.

    Use it on deep plain networks (fully connected or convolutional, without
    normalization) that were initialized on the edge of chaos. Masks and weights stay as
    they are. `prune_at_init(..., rescale=True)` prunes and rescales in one call.

    The theory assumes that weights are removed at random. Methods that read data keep
    the weights of the strongest inputs. With tanh this does no harm, but the signals of
    deep ReLU networks may then explode. `signal_report` shows it, and method `"robust"`
    checks it.

    Args:
        model: A model from `prune_at_init`.
        activation: A Keras activation, its name, or a function, which the inputs of all
            layers went through. Default: it is read from the model, for each layer.
        granularity: Which weights share a factor: `"unit"` (an output unit or filter),
            `"layer"`, or `"position"` (a filter's weights at one place of the kernel,
            as in the paper). Units without weights keep the factor 1.
        sigma_w: The target: standard deviation of a weight times the root of the
            fan-in. Default: the edge of chaos, with sigma_b from the model's biases.
        force: Rescale even if the network is residual, normalized, or has layers that
            the theory does not cover.

    Raises:
        ValueError: If the model is not pruned or not such a network, or an argument is
            out of its range. The model is unchanged then.
        TypeError: If `model` is no Keras model.

    Example:

    >>> import keras_prune_init as kpi
    >>> model = kpi.models.mlp((64,), depth=3, width=64)  # ReLU, on the edge of chaos
    >>> pruned = kpi.prune_at_init(model, method="random", sparsity=0.75)
    >>> kpi.rescale(pruned, "relu", granularity="layer")
    >>> print(f"{pruned.layers[1].scale.numpy().mean():.1f}")  # 1 / sqrt(0.25)
    2.0

    Reference:
        Hayou, Ton, Doucet, Teh, 2021, arXiv 2002.08797 (proposition 1, algorithms 1
        and 2).
    """
    check_choice("granularity", granularity, ("unit", "layer", "position"))
    check_flag("force", force)
    if sigma_w is not None and not (is_number(sigma_w) and 0 < sigma_w <= LARGEST):
        raise ValueError(
            f"`sigma_w` must be positive. Received: sigma_w={sigma_w!r}. "
            "Leave it out, for the edge of chaos."
        )
    apply(targets(model, activation, sigma_w, force), granularity)


def targets(
    model: keras.Model,
    activation: Activation | None = None,
    sigma_w: float | None = None,
    force: bool = False,
) -> list[tuple[Kernel, float]]:
    """Return masked kernels with their sigma_w; the arguments are as in `rescale`."""
    check_pruned("rescale", model)
    if not force:
        check_plain(model)
    kernels = [k for k in matrix_kernels(model) if k.wrapper]
    sigma_b = bias_deviation(kernels)
    if sigma_w is None and activation is not None:
        sigma_w = edge_of_chaos(activation, sigma_b).sigma_w
    if sigma_w is not None:
        return [(kernel, sigma_w) for kernel in kernels]
    found = edges(model, kernels, sigma_b)
    return [(k, edge.sigma_w) for k, edge in zip(kernels, found, strict=True)]


def apply(aims: list[tuple[Kernel, float]], granularity: str = "unit") -> None:
    """Set the scale of kernels so that they reach what `targets` returned."""
    pairs = [(kernel, _factors(kernel, aim, granularity)) for kernel, aim in aims]
    most = np.finfo("float32").max
    wrong = [k.path for k, factors in pairs if not np.all(np.abs(factors) < most)]
    if wrong:
        raise ValueError(
            "Scales must be finite numbers. Received: weights in "
            f"{', '.join(wrong)} that need others. Look for NaN in them; nothing was "
            "changed."
        )
    for kernel, factors in pairs:
        if kernel.scale is not None:
            kernel.scale.assign(factors)


def undo(model: keras.Model) -> None:
    """Set every scale back to 1."""
    for layer in masked_layers(model):
        for scale in layer.scales.values():
            scale.assign(np.ones(scale.shape))


def check_plain(model: keras.Model) -> None:
    """Raise a ValueError, with the reason, if rescaling does not suit a model."""
    if reason := obstacle(flat_graph(model)):
        raise ValueError(
            "The rescaling trick is for plain networks without normalization. "
            f"Received: {model.name}, {reason}. Leave `rescale` out, or call "
            "`keras_prune_init.rescale(pruned, force=True)`."
        )


def obstacle(nodes: list[Node]) -> str | None:
    """Return why the rescaling trick does not suit a model; `None` if it does."""
    if blocks := len(residual_additions(nodes)):
        return (
            f"whose {blocks} residual additions keep it on the edge of chaos without "
            "(proposition 3); use `stabilize` or method 'sbp_sr'"
        )
    behind: set[int] = set()  # layers with a kernel, and all after them
    for i, node in enumerate(nodes):
        if node.has_kernel or behind & set(node.parents):
            behind.add(i)
            if has(node.operation, Trait.NORMALIZES):
                return (
                    f"in which `{node.operation.name}` normalizes away any factor of "
                    "the layers before it"
                )
    kernels = [n for n in nodes if n.has_kernel]
    other = [n.operation.name for n in kernels if not has(n.layer, Trait.LINEAR)]
    layers = [n.operation for n in nodes if isinstance(n.operation, keras.layers.Layer)]
    other += [layer.name for layer in layers if is_composite(layer)]
    if other:
        return f"with layers that mean field theory does not cover: {', '.join(other)}"
    return None


def _factors(kernel, sigma_w, granularity):
    """Return the factor of each kept weight, in the shape of `scale`."""
    weights = to_matrices(kernel, kernel.value.astype(np.float64))
    if granularity == "position":
        total = np.sum(np.square(weights), -2, keepdims=True)
        target = sigma_w**2 / math.prod(weights.shape[1:-2])
    else:
        total, target = energy(weights), sigma_w**2
    if granularity == "layer":
        total = np.mean(total, keepdims=True)
    factors = np.sqrt(target / np.where(total > 0, total, target))
    factors = from_matrices(kernel, np.broadcast_to(factors, weights.shape))
    # The same for all inputs, of which `scale` has one.
    return factors[tuple(slice(n) for n in kernel.scale.shape)]
