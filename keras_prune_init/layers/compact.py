"""CompactLayer: a pruned layer that stores only its kept weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init import _gc
from keras_prune_init._arguments import check_choice, is_whole
from keras_prune_init.layers import sparse_calls, tracking
from keras_prune_init.layers.kept_weights import KeptWeights, gaps, positions
from keras_prune_init.layers.kernel_paths import get_kernel, input_axes, owner
from keras_prune_init.layers.masked import PACKAGE, MaskedLayer, part_name
from keras_prune_init.layers.sparse_calls import SparseCall
from keras_prune_init.sparse import conditions
from keras_prune_init.sparse.estimate import Expected

COMPUTES = ("compact", "sparse", "auto")


@keras.saving.register_keras_serializable(PACKAGE)
class CompactLayer(MaskedLayer):
    """Run a layer with kernels that exist only while it runs.

    Of each kernel it stores the kept weights and their positions. Optimizer state,
    checkpoints and gradients between replicas are smaller by the same factor. Outputs
    and gradients are those of a `MaskedLayer`. Optimizers that look at whole matrices
    (Muon, Adafactor) see vectors instead.

    With `computes="sparse"`, products never touch removed weights, so training steps
    and predictions are faster the sparser the network is, on a CPU. Outputs are equal
    up to rounding. Dense and EinsumDense layers, the projections of attention,
    embeddings, and convolutions of one or two dimensions can compute in this way; 3x3
    convolutions do it where it is faster. Other layers compute with whole kernels. So
    do all of them under XLA, on GPUs and TPUs, in float64, without numba, and in models
    that are exported. Products are in float32, in mixed precision too. Sums have the
    same order whatever the number of threads.

    With `computes="auto"`, each kernel computes in the way that takes less time at its
    size and density. This is estimated from some products that are timed on this
    machine, once in a process: three seconds. If TensorFlow's operations are made
    deterministic, the times are those of a table.

    `prune_at_init` and `to_layout` put these layers into a model, for the layouts
    `"compact"`, `"sparse"` and `"auto"`.

    Args:
        layer: The layer to wrap, built or not.
        kernels: Attribute paths of the kernels to prune, such as `["kernel"]`. Default:
            every kernel of the layer.
        note: How the masks were chosen, for `report`.
        counts: `{kernel attribute path: number of kept weights}`. A kernel that is not
            in it gets its weights from `install`.
        computes: `"compact"`, `"sparse"` or `"auto"`.
        **kwargs: `paths`, the names of the kernels in reports; `name` and other
            `keras.layers.Layer` arguments.

    Attributes:
        kept: `{kernel attribute path: object}` with the variables `values` (the kept
            weights) and `index` (their positions in the flat kernel).
        scales: `{kernel attribute path: variable}`, the rescaling factor.
        sparse_kernels: Attribute paths of the kernels that can compute sparsely, if
            the layer may.

    Raises:
        ValueError: If the layer has no kernel that can be pruned, or an argument does
            not fit.
        TypeError: If `layer` is no layer, or `kernels` are no names.

    Example:

    >>> import keras
    >>> import keras_prune_init as kpi
    >>> layer = kpi.CompactLayer(keras.layers.Dense(2))
    >>> layer.build((None, 3))
    >>> layer.install("kernel", [[1, 0], [1, 1], [0, 1]], [[5, 0], [6, 7], [0, 8]])
    >>> layer.kept["kernel"].values.numpy()
    array([5., 6., 7., 8.], dtype=float32)
    >>> layer.kept["kernel"].index.numpy()
    array([0, 2, 3, 5], dtype=int32)
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kernels: Sequence[str] | None = None,
        note: str = "",
        counts: Mapping[str, int] | None = None,
        computes: str = "compact",
        **kwargs,
    ):
        check_choice("computes", computes, COMPUTES)
        super().__init__(layer, kernels, note, **kwargs)
        self.computes = computes
        self.sparse_kernels: tuple[str, ...] = ()
        self.counts = _checked_counts(counts, self.kernels)
        self.places: dict[str, list[tracking.Place]] = {}  # of kernels in Keras
        self.trained: dict[str, bool] = {}  # whether these kernels are trained
        for name in self.kernels:
            kept = KeptWeights(name=name.replace(".", "_"))
            setattr(self, part_name(name, "kept"), kept)

    @property
    def kept(self) -> dict[str, KeptWeights]:
        return self._parts("kept")

    @property
    def masks(self):
        raise AttributeError(
            "A CompactLayer has no variables for its masks. "
            f"Received: {self.name}.masks. Use `kept_mask(name)`."
        )

    def build(self, *args, **shapes):
        with _gc.old_objects_aside():
            if not self.layer.built:
                with without_storage(self.kernels):
                    self.layer.build(*args, **shapes)
            for name in self.kernels:
                kernel = get_kernel(self.layer, name)
                self.trained[name] = kernel.trainable
                self.places[name] = tracking.take_out(self.layer, kernel)
                self._add_scale(name)
        for name, count in self.counts.items():
            self._create(name, count)
        if self.computes != "compact":
            calls = [(n, SparseCall.put_in(self, n)) for n in self.kernels]
            self.sparse_kernels = tuple(name for name, call in calls if call)

    def _create(self, name, count):
        parent, _, own = self.path.rpartition("/")
        with keras.name_scope(own, override_parent=parent):
            self.kept[name].create(count, get_kernel(self.layer, name))
        self.kept[name].trainable = self.trained[name]

    def kept_mask(self, name: str) -> np.ndarray:
        return self.kept[name].mask()

    def kernel_value(self, name: str) -> np.ndarray:
        return np.asarray(self.kept[name].dense(self.kept[name].values.value))

    def install(self, name: str, mask: np.ndarray, values) -> None:
        count = int(np.count_nonzero(mask))
        if self.counts.setdefault(name, count) != count:
            raise ValueError(
                "A CompactLayer must keep as many weights as it is made for. Received: "
                f"a mask for {self.name} that keeps {count} in place of "
                f"{self.counts[name]}. Use `to_layout(model, 'masked')` first."
            )
        if not self.kept[name].built:
            self._create(name, count)
        self.kept[name].assign(mask, values)

    def set_kernel(self, name: str, values) -> None:
        self.kept[name].values.assign(self.kept[name].gather(values))

    def compute_output_spec(self, *args, **kwargs):
        names = ("compute_output_spec", "compute_output_shape")
        plain = keras.layers.Layer
        if any(getattr(type(self.layer), n) is not getattr(plain, n) for n in names):
            return super().compute_output_spec(*args, **kwargs)
        # Keras runs the layer for this, so it needs the kernels.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def masked_kernel(self, name: str):
        kept = self.kept[name]
        if not kept.built:  # while Keras connects layers, before `install`
            kernel = get_kernel(self.layer, name)
            return tf.zeros(kernel.shape, kernel.dtype)
        inputs = input_axes(self.layer, name)
        return kept.dense(kept.values.value * kept.spread(self.scales[name], inputs))

    def _masked_call(self, *args, **kwargs):
        names = self.sparse_kernels
        ready = names and all(self.kept[name].built for name in names)
        # Who replaces this method wants to see the kernels.
        watched = "masked_kernel" in vars(self)
        given = tf.nest.flatten((args, kwargs))
        ragged = any(isinstance(v, tf.RaggedTensor) for v in given)
        if not ready or watched or ragged or not conditions.can_run():
            return super()._masked_call(*args, **kwargs)
        others = [name for name in self.kernels if name not in names]
        values = {name: self.masked_kernel(name) for name in others}
        with sparse_calls.computing_with(self, names):
            return self._run(values, args, kwargs)

    def expected(self, name: str, positions: int) -> Expected | None:
        """Return how a kernel computes, and how long in a step of 128 samples.

        Args:
            name: Attribute path of the kernel.
            positions: How often a sample is multiplied with it: once for each pixel or
                token of the output.

        Returns:
            `computes`, which is `"sparse"` or `"compact"`, and the `seconds` of a
            training step with the kernel and the `dense_seconds` without pruning, as
            they are expected on this machine. `None` if it never computes sparsely.
        """
        if name not in self.sparse_kernels or not conditions.can_run():
            return None
        call = vars(owner(self.layer, name))["call"]
        return call.expected(positions, self.kept[name].values.shape[0])

    def release(self, layer):
        super().release(layer)
        for name in self.sparse_kernels:
            SparseCall.take_out(layer, name)
        for name in reversed(self.kernels):
            kernel = get_kernel(layer, name)
            tracking.put_in(layer, kernel, self.places[name])

    @property
    def fixed(self) -> list[keras.Variable]:
        return [*(k.index for k in self.kept.values()), *self.scales.values()]

    def __dir__(self):
        # Here Keras looks for parts that it saves in HDF5 groups of their own, which
        # would take more room than what is kept. `save_own_variables` saves theirs too.
        parts = {"layer", "kept", *(part_name(name, "kept") for name in self.kernels)}
        return [name for name in super().__dir__() if name not in parts]

    def save_own_variables(self, store):
        index = {id(kept.index) for kept in self.kept.values() if kept.built}
        for i, variable in enumerate(self.variables):
            value = np.asarray(variable.value)
            store[f"{i}"] = gaps(value) if id(variable) in index else value

    def load_own_variables(self, store):
        if len(store.keys()) != len(self.variables):
            raise ValueError(
                "A CompactLayer loads as many variables as it has. Received: "
                f"{len(store.keys())} for {self.name}, which has "
                f"{len(self.variables)}. Load them into a model pruned in the same way."
            )
        stored = {
            id(v): np.asarray(store[f"{i}"]) for i, v in enumerate(self.variables)
        }
        kept = {name: k for name, k in self.kept.items() if k.built}
        for name, k in kept.items():
            values, size = stored[id(k.values)], math.prod(k.dense_shape)
            found = positions(stored[id(k.index)], size)
            if found is None:
                raise self._damaged(f"positions of {name} that do not rise, or too far")
            if values.shape != found.shape:
                raise self._damaged(f"{len(values)} values at {len(found)} positions")
            stored[id(k.index)] = found
            # Another pruning of the same model keeps another number in each layer.
            for variable in (k.values, k.index):
                tracking.resize(variable, found.shape)
        for variable in self.variables:
            variable.assign(stored[id(variable)])
        self._check_scales()
        self.counts = {name: k.values.shape[0] for name, k in kept.items()}

    def own_options(self):
        return {"counts": dict(self.counts), "computes": self.computes}

    @classmethod
    def from_config(cls, config):
        # This builds the wrapped layer, if it was built.
        with without_storage(config["kernels"]):
            return super().from_config(config)


def _checked_counts(counts, kernels):
    counts = {} if counts is None else counts
    known = isinstance(counts, Mapping) and all(
        name in kernels and is_whole(count, 0) for name, count in counts.items()
    )
    if not known:
        raise ValueError(
            "`counts` must be a dict from kernel to number of kept weights. Received: "
            f"counts={counts!r} for the kernels {', '.join(kernels)}. Leave it out, "
            "and use `install`."
        )
    return dict(counts)


@contextlib.contextmanager
def without_storage(kernels: Iterable[str] | None = None):
    """Make new variables, or only these kernels, with a shape but without storage."""
    names = None if kernels is None else {path.rpartition(".")[2] for path in kernels}

    def create(next_creator, **kwargs):
        if names is None or kwargs["name"] in names:
            # A function, because TensorFlow may lift this out of a graph.
            dtype = kwargs["dtype"]
            kwargs["initial_value"] = lambda: tf.zeros([0], dtype)
        return next_creator(**kwargs)

    with tf.variable_creator_scope(create):
        yield
