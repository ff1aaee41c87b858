"""GatedLayer: a layer whose kernels are multiplied by hard-concrete gates."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_prune_init.gates import hard_concrete
from keras_prune_init.gates.options import Options, check_kernels, check_options, of
from keras_prune_init.gates.parts import Penalty, constant, uniform
from keras_prune_init.gates.places import bias_of, gate_axes
from keras_prune_init.layers.kernel_paths import get_kernel
from keras_prune_init.layers.masked import PACKAGE, MaskedLayer, part_name
from keras_prune_init.surgery import exchange

ops = keras.ops


@keras.saving.register_keras_serializable(PACKAGE)
class GatedLayer(MaskedLayer):
    """Run a layer with kernels that gates multiply, and learn which gates to close.

    `add_gates` puts these layers into a model, and `harden` turns them into
    `MaskedLayer`s. In training each call draws new gates, the same for all samples of
    the batch. In inference gates have fixed values. What an open gate costs is a
    regularization loss of the layer, so it is in `model.losses`, and `fit` trains it.
    It is counted once, even if the layer is called twice. A training loop of your own
    adds `sum(model.losses)`, under a strategy divided by the number of replicas.

    Args:
        layer: The layer to wrap, built or not.
        kernels: Attribute paths of the kernels to gate. Default: every kernel.
        note: What the report says of it.
        paths: Names of the kernels in reports.
        what: `"inputs"`, `"channels"` or `"weights"`, as in `add_gates`.
        penalty: Cost of each weight whose gate is open, divided by `data_size`: a
            number, or a dict by attribute path.
        data_size: Number of training examples.
        drop: Probability at the start that a gate is below 1/2 in training: a number,
            or a dict by attribute path.
        weight_decay: Factor of w ** 2 / 2 of each weight, times the probability that
            its gate is open.
        seed: Seed of the first `log_alpha`, and of the draws.
        **kwargs: `name` and other `keras.layers.Layer` arguments.

    Attributes:
        log_alphas: `{kernel attribute path: variable}`, the trained logits of the
            gates. They have size 1 along the axes that share a gate, and the kernel's
            shape otherwise.
        masks, scales: Those of a `MaskedLayer`. Masks are 1, unless a pruned model got
            the gates.

    Raises:
        ValueError: If the layer has no kernel that can be gated, or an argument does
            not fit.
        TypeError: If `layer` is no layer, or `kernels` are no names.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> dense = keras.layers.Dense(2, kernel_initializer="ones")
    >>> layer = kpi.GatedLayer(dense, penalty=1.0, data_size=100)
    >>> layer.build((None, 3))
    >>> _ = layer.log_alphas["kernel"].assign([[4.0], [0.0], [-4.0]])
    >>> layer(np.array([[1.0, 10.0, 100.0]])).numpy()  # open, half open, closed
    array([[6., 6.]], dtype=float32)

    Reference:
        Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0
        Regularization", 2018, arXiv 1712.01312.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kernels: Sequence[str] | None = None,
        note: str = "",
        paths: Sequence[str] | None = None,
        *,
        what: str = "inputs",
        penalty: float | Mapping[str, float],
        data_size: int,
        drop: float | Mapping[str, float] = 0.5,
        weight_decay: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        options = Options(what, penalty, data_size, drop, weight_decay, seed)
        check_options(options)
        super().__init__(layer, kernels, note, paths, **kwargs)
        check_kernels(options, self.kernels)
        self._options = options
        self._passes_training = "training" in inspect.signature(layer.call).parameters

    @staticmethod
    def _signature(layer):
        """Return that of the layer, with `training`, for which Keras then cares."""
        signature = inspect.signature(layer.call)
        found = dict(signature.parameters)
        if "training" not in found:
            kind = inspect.Parameter.KEYWORD_ONLY
            found["training"] = inspect.Parameter("training", kind, default=None)
        # Those like **kwargs are last.
        return signature.replace(
            parameters=sorted(found.values(), key=lambda p: p.kind)
        )

    def build(self, *args, **shapes):
        super().build(*args, **shapes)
        options = self._options
        for name in self.kernels:
            self._add_gates(name)
        source = np.random.default_rng([options.seed, self._number()])
        # Files hold the weights of a layer, but no state of its seed generators. As a
        # weight it lets a resumed run draw what it would have drawn.
        self._draws = self.add_weight(
            shape=(2,),
            initializer=constant([source.integers(2**31), 0]),
            dtype="int64",
            trainable=False,
            name="draws",
        )

    def _add_gates(self, name):
        options, kernel = self._options, get_kernel(self.layer, name)
        axes = gate_axes(self.layer, name, options.what)
        shape = [n if i in axes else 1 for i, n in enumerate(kernel.shape)]
        source = np.random.default_rng([options.seed, self._number(name)])
        first = hard_concrete.start(of(options.drop, name), shape, source)
        variable = self.add_weight(
            shape=shape,
            initializer=constant(first),
            dtype="float64" if self.variable_dtype == "float64" else "float32",
            name=part_name(name, "log_alpha"),
            constraint=hard_concrete.Bounds(),
            regularizer=Penalty(self, name),
            autocast=False,
        )
        setattr(self, part_name(name, "log_alpha"), variable)

    def _number(self, name=None):
        """Return what makes the draws of a kernel, or of the layer, its own."""
        name = name or self.kernels[0]
        path = self.path_of(name) or get_kernel(self.layer, name).path
        return zlib.crc32(path.encode())

    @property
    def log_alphas(self) -> dict[str, keras.Variable]:
        return self._parts("log_alpha")

    # --- gates ------------------------------------------------------------------------

    def gate(self, name: str):
        """Return the gates of kernel `name` in inference, a tensor like `log_alpha`."""
        return hard_concrete.in_inference(self.log_alphas[name].value)

    def drawn_gate(self, name: str):
        """Return newly drawn gates of kernel `name`, a tensor like `log_alpha`."""
        log_alpha, margin = self.log_alphas[name], hard_concrete.MARGIN
        u = uniform(self._draws, log_alpha.shape, log_alpha.dtype, margin)
        return hard_concrete.sample(log_alpha.value, u)

    def counts(self, name: str):
        """Return how many weights each gate of kernel `name` holds, a float tensor.

        Weights that a mask removed do not count. The bias of a channel counts as one.
        """
        held = self._held(name, self.masks[name].value)
        return held + 1 if self._bias(name) else held

    def _held(self, name, values):
        """Sum kernel-shaped values over the weights that each gate holds."""
        log_alpha = self.log_alphas[name]
        sizes = zip(log_alpha.shape, values.shape, strict=True)
        shared = [i for i, (gates, weights) in enumerate(sizes) if gates != weights]
        values = ops.cast(values, log_alpha.dtype)
        return ops.sum(values, shared, keepdims=True) if shared else values

    def expected_kept(self, name: str):
        """Return how many weights of kernel `name` have an open gate in expectation.

        It is a scalar tensor, and differentiable.
        """
        log_alpha = self.log_alphas[name]
        return ops.sum(hard_concrete.probability(log_alpha.value) * self.counts(name))

    def cost(self, name: str, log_alpha):
        """Return what the gates of kernel `name` add to the loss, a scalar tensor."""
        options = self._options
        price = of(options.penalty, name) / options.data_size
        each = price * self.counts(name)
        if options.weight_decay:
            each += options.weight_decay / 2 * self._squares(name)
        return ops.sum(hard_concrete.probability(log_alpha) * each)

    def _squares(self, name):
        """Return the sum of the squares of the weights that each gate holds."""
        squares = self._held(name, ops.square(get_kernel(self.layer, name).value))
        if bias := self._bias(name):
            values = ops.square(get_kernel(self.layer, bias.path).value)
            values = bias.as_gates(values, squares.shape)
            squares += ops.cast(values, squares.dtype)
        return squares

    def _bias(self, name):
        """Return the bias that the gates of a kernel open and close, too, or `None`."""
        channels = self._options.what == "channels"
        return bias_of(self.layer, name) if channels else None

    # --- in place of masks ------------------------------------------------------------

    def kept_mask(self, name: str) -> np.ndarray:
        """Return which weights are kept in inference, a bool array."""
        return super().kept_mask(name) & (np.asarray(self.gate(name)) > 0)

    def kernel_value(self, name: str) -> np.ndarray:
        return super().kernel_value(name) * np.asarray(self.gate(name))

    def masked_kernel(self, name: str):
        return _product(super().masked_kernel(name), self.gate(name))

    def in_use(self, training: bool | None = False) -> dict[str, Any]:
        used = {}
        for name in self.kernels:
            gate = self.drawn_gate(name) if training else self.gate(name)
            used[name] = _product(super().masked_kernel(name), gate)
            if bias := self._bias(name):
                value = get_kernel(self.layer, bias.path).value
                used[bias.path] = _product(value, bias.from_gates(gate, value.shape))
        return used

    def own_options(self):
        return self._options._asdict()

    def _masked_call(self, *args, training=None, **kwargs):
        kwargs |= self._for_layer(training)
        return self._run(self.in_use(training), args, kwargs)

    def bare_call(self, *args, training=None, **kwargs):
        return super().bare_call(*args, **kwargs, **self._for_layer(training))

    def compute_output_spec(self, *args, training=None, **kwargs):
        kwargs |= self._for_layer(training)
        return super().compute_output_spec(*args, **kwargs)

    def _for_layer(self, training):
        known = training is not None and self._passes_training
        return {"training": training} if known else {}

    def load_own_variables(self, store):
        super().load_own_variables(store)
        for name, log_alpha in self.log_alphas.items():
            if not np.isfinite(ops.convert_to_numpy(log_alpha)).all():
                raise self._damaged(f"gates of {name} with no finite log_alpha")


exchange.WRAPPERS["gated"] = GatedLayer
exchange.PASSING[GatedLayer] = "gates", "harden(model)"


def _product(values, gates):
    # In mixed precision only the values are in half of it.
    return values * ops.cast(gates, values.dtype)
