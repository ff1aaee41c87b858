"""CompactLayer: a pruned layer that stores no more than its kept weights."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_prune_init.core import garbage, selection
from keras_prune_init.core.layers import PACKAGE, MaskedLayer

ops = keras.ops
# What is the same of a vector of weights as of the matrix that they are in.
BY_WEIGHT = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


@keras.saving.register_keras_serializable(PACKAGE)
class CompactLayer(MaskedLayer):
    """Runs a layer with kernels that exist only while it runs.

    Of each kernel it stores the kept weights and where they are. What an optimizer
    keeps for each weight, checkpoints, and gradients sent between replicas are smaller
    by the same factor. Outputs and gradients are those of a `MaskedLayer`; optimizers
    that look at whole matrices (Muon, Adafactor) see vectors.

    Use `prune_at_init(..., layout="compact")` or `to_layout` to put these into a model.

    Args:
        layer, kernels, note: As of a `MaskedLayer`.
        counts: `{kernel attribute path: number of kept weights}`; a kernel that is not
            in there gets its weights by `install`.
        **kwargs: As of a `MaskedLayer`.

    Attributes:
        kept: `{kernel attribute path: KeptWeights}`.
        scales: As of a `MaskedLayer`.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kernels: Sequence[str] | None = None,
        note: str = "",
        counts: Mapping[str, int] | None = None,
        **kwargs,
    ):
        super().__init__(layer, kernels, note, **kwargs)
        self.counts = dict(counts or {})
        for name in self.kernels:
            self._set(name, "kept", KeptWeights(name=name.replace(".", "_")))

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
        with garbage.old_objects_aside():
            if not self.layer.built:
                with without_storage(variable_names(self.kernels)):
                    self.layer.build(*args, **shapes)
            for name in self.kernels:
                _make_absent(selection.owner(self.layer, name), name)
                self._add_scale(name)
        for name, count in self.counts.items():
            self._create(name, count)

    def _create(self, name, count):
        with _within(self.path):
            self.kept[name].create(count, selection.get_kernel(self.layer, name))

    def kept_mask(self, name: str) -> np.ndarray:
        return self.kept[name].mask()

    def kernel_value(self, name: str) -> np.ndarray:
        return np.asarray(self.kept[name].dense(self.kept[name].values.value))

    def install(self, name: str, mask: np.ndarray, values) -> None:
        count = int(np.count_nonzero(mask))
        if self.counts.setdefault(name, count) != count:
            raise ValueError(
                "A CompactLayer keeps as many weights as it was made for. Received: "
                f"a mask for {self.name} that keeps {count} in place of "
                f"{self.counts[name]}. Use `to_layout(model, 'masked')` first."
            )
        if not self.kept[name].built:
            self._create(name, count)
        self.kept[name].assign(mask, values)

    def masked_kernel(self, name: str):
        kept = self.kept[name]
        inputs = selection.input_axes(self.layer, name)
        return kept.dense(kept.values.value * kept.spread(self.scales[name], inputs))

    def _fixed(self, name):
        return self.kept[name].index, self.scales[name]

    def get_config(self):
        return {**super().get_config(), "counts": self.counts}

    @classmethod
    def from_config(cls, config):
        # Which builds the wrapped layer, if it was built.
        with without_storage(variable_names(config["kernels"])):
            return super().from_config(config)


class KeptWeights(keras.layers.Layer):
    """The weights that are left of one kernel, as a vector, and where they are.

    Attributes:
        values: Trainable, of shape `(kept,)`.
        index: int32 positions in the flat kernel, rising.
    """

    def create(self, count: int, kernel: keras.Variable) -> None:
        """Make the variables, for so many weights of a kernel that is absent."""
        if math.prod(kernel.shape) >= 2**31:
            raise ValueError(
                "A kernel of the compact layout has less than 2**31 weights. "
                f"Received: {kernel.path} of shape {tuple(kernel.shape)}."
            )
        self.dense_shape = tuple(kernel.shape)
        regularizer, constraint = kernel.regularizer, kernel.constraint
        self.values = self.add_weight(
            shape=(count,),
            initializer="zeros",
            dtype=kernel.dtype,
            name="values",
            regularizer=regularizer
            if regularizer is None or isinstance(regularizer, BY_WEIGHT)
            else lambda values: regularizer(self.dense(values)),
            constraint=constraint
            and (lambda values: self.gather(constraint(self.dense(values)))),
        )
        self.index = self.add_weight(
            shape=(count,),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="index",
            aggregation="only_first_replica",
        )
        self.built = True

    def assign(self, mask: np.ndarray, values) -> None:
        """Take over the kept ones of kernel-shaped `values`."""
        index = np.flatnonzero(mask)
        self.index.assign(index)
        # Not as one array of all: this may be most of the memory there is.
        self.values.assign(tf.gather(tf.reshape(values, [-1]), index))

    def mask(self) -> np.ndarray:
        mask = np.zeros(math.prod(self.dense_shape), bool)
        mask[np.asarray(self.index.value)] = True
        return mask.reshape(self.dense_shape)

    def dense(self, values):
        """A kernel with these values, and 0 elsewhere."""
        # A ninth of the time of tf.scatter_nd, on a processor.
        flat = tf.raw_ops.SparseToDense(
            sparse_indices=tf.expand_dims(self.index.value, 1),
            output_shape=[math.prod(self.dense_shape)],
            sparse_values=values,
            default_value=tf.zeros([], values.dtype),
            validate_indices=False,  # they rise
        )
        return tf.reshape(flat, self.dense_shape)

    def gather(self, kernel):
        """The opposite of `dense`."""
        return ops.take(ops.reshape(kernel, [-1]), self.index.value)

    def spread(self, scale: keras.Variable, inputs: Iterable[int]):
        """The factor of each value: `scale` has size 1 along the axes `inputs`."""
        place, step, stride = 0, 1, 1
        for axis in reversed(range(len(self.dense_shape))):
            size = self.dense_shape[axis]
            if axis not in inputs:
                place += self.index.value // step % size * stride
                stride *= size
            step *= size
        return ops.take(ops.reshape(scale.value, [-1]), place)


def variable_names(kernels: Iterable[str]) -> set[str]:
    """What layers call the variables at these attribute paths."""
    return {name.rpartition(".")[2] for name in kernels}


@contextlib.contextmanager
def without_storage(names: Iterable[str]):
    """Variables of these names that are made here have a shape, but hold nothing."""

    def create(next_creator, **kwargs):
        if kwargs["name"] in names:
            kwargs["initial_value"] = tf.zeros([0], kwargs["dtype"])
        return next_creator(**kwargs)

    with tf.variable_creator_scope(create):
        yield


def _within(path):
    """A scope for variables that belong to the layer at `path`."""
    parent, _, name = path.rpartition("/")
    return keras.name_scope(name, override_parent=parent)


def _make_absent(holder, name):
    """Leave of a layer's kernel what says its shape, and have it saved without."""
    name = name.rpartition(".")[2]
    kernel = getattr(holder, name)
    # Behind a property, as the layer's own way to save it.
    attribute = next(k for k, v in vars(holder).items() if v is kernel)
    with without_storage([kernel.name]), _within(kernel.path.rpartition("/")[0]):
        absent = keras.Variable(
            "zeros",
            shape=kernel.shape,
            dtype=kernel.dtype,
            trainable=False,
            name=kernel.name,
        )
    absent.regularizer, absent.constraint = kernel.regularizer, kernel.constraint
    delattr(holder, attribute)
    # Past Keras, which would follow it.
    object.__setattr__(holder, attribute, absent)
    for method in ("save_own_variables", "load_own_variables"):
        plain = functools.partial(getattr(keras.layers.Layer, method), holder)
        object.__setattr__(holder, method, plain)
