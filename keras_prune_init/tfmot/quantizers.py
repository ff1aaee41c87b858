"""What tfmot asks to quantize a layer, such that removed weights stay 0.

tfmot's own scheme for pruned models forgets depthwise convolutions, and the masks of a
model that is loaded. Here masks are weights, so files and checkpoints hold them. Its
ranges of activations begin far too wide.
This module imports tfmot; `packages` says when.
"""

from __future__ import annotations

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras import quant_ops
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_configs as configs,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_layout_transform as layout_transform,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry as registry,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_scheme as scheme,
)

from keras_prune_init.layers import kernel_paths

# tfmot replaces it by layers that it knows.
REPLACED = ("SeparableConv2D",)
# Those that tfmot quantizes.
ACTIVATIONS = (
    *("linear", "relu", "swish", "silu", "gelu", "softmax", "sigmoid", "tanh"),
    "NoOpActivation",
)
# Of a range, in each step, once it has seen a thousand.
MOST_DECAY = 0.999


class MaskedQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """A quantizer that keeps a weight's zeros; without an inner one it only does that.

    The zeros are those that the weight has when it is built.
    """

    def __init__(self, weight, inner=None):
        self.weight, self.inner = weight, inner

    def build(self, tensor_shape, name, layer):
        kept = (self.weight.numpy() != 0).astype("float32")
        # Layers inside have weights of one name, which HDF5 does not take.
        name_of_mask = self.weight.name.split(":")[0].replace("/", "_") + "_mask"
        mask = layer.add_weight(
            name_of_mask,
            shape=tensor_shape,
            initializer=tf_keras.initializers.Constant(kept),
            trainable=False,
        )
        inner = self.inner and self.inner.build(tensor_shape, name, layer)
        return {"mask": mask, "inner": inner}

    def __call__(self, inputs, training, weights, **kwargs):
        kept = inputs * tf.cast(weights["mask"], inputs.dtype)
        if self.inner is None:
            return kept
        return self.inner(kept, training, weights["inner"], **kwargs)

    def get_config(self):
        return {}


class RangeQuantizer(tfmot.quantization.keras.quantizers.MovingAverageQuantizer):
    """tfmot's quantizer of activations, whose range begins with that of the first step.

    tfmot begins with -6 to 6 and forgets a thousandth of it in each step, so after an
    epoch of some hundred steps most of the 256 values are for what never occurs.
    """

    def build(self, tensor_shape, name, layer):
        count = layer.add_weight(
            f"{name}_count",
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.MEAN,
        )
        return {**super().build(tensor_shape, name, layer), "count": count}

    def __call__(self, inputs, training, weights, **kwargs):
        if not training:
            return super().__call__(inputs, training, weights, **kwargs)
        count = weights["count"]
        # The mean over the steps so far, at first.
        decay = tf.minimum(count / (count + 1.0), MOST_DECAY)
        quantized = quant_ops.MovingAvgQuantize(
            inputs,
            weights["min_var"],
            weights["max_var"],
            ema_decay=decay,
            is_training=True,
            num_bits=self.num_bits,
            per_channel=self.per_axis,
            symmetric=self.symmetric,
            narrow_range=self.narrow_range,
        )
        with tf.control_dependencies([quantized]):
            count.assign_add(1.0)
        return quantized


def _ranged(quantizer):
    if type(quantizer) is not RangeQuantizer.__base__:
        return quantizer
    return RangeQuantizer(**quantizer.get_config())


class MaskedConfig(tfmot.quantization.keras.QuantizeConfig):
    """A config of tfmot with masked weights, and with ranges that are learnt soon."""

    def __init__(self, inner):
        self.inner = inner

    def get_weights_and_quantizers(self, layer):
        pairs = self.inner.get_weights_and_quantizers(layer)
        return [(weight, MaskedQuantizer(weight, inner)) for weight, inner in pairs]

    def get_activations_and_quantizers(self, layer):
        pairs = self.inner.get_activations_and_quantizers(layer)
        return [(activation, _ranged(quantizer)) for activation, quantizer in pairs]

    def set_quantize_weights(self, layer, quantize_weights):
        self.inner.set_quantize_weights(layer, quantize_weights)

    def set_quantize_activations(self, layer, quantize_activations):
        self.inner.set_quantize_activations(layer, quantize_activations)

    def get_output_quantizers(self, layer):
        return [*map(_ranged, self.inner.get_output_quantizers(layer))]

    def get_config(self):
        return {"inner": tf_keras.utils.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        with tfmot.quantization.keras.quantize_scope():
            return cls(tf_keras.utils.deserialize_keras_object(config["inner"]))


class FloatConfig(tfmot.quantization.keras.QuantizeConfig):
    """Leaves a layer in float32, and keeps the zeros of its weights at these paths."""

    def __init__(self, paths):
        self.paths = paths

    def get_weights_and_quantizers(self, layer):
        weights = [kernel_paths.steps(layer, path)[-1] for path in self.paths]
        return [(weight, MaskedQuantizer(weight)) for weight in weights]

    def set_quantize_weights(self, layer, quantize_weights):
        for path, weight in zip(self.paths, quantize_weights, strict=True):
            setattr(kernel_paths.steps(layer, path)[-2], path.split(".")[-1], weight)

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {"paths": self.paths}


SCOPE = {"MaskedConfig": MaskedConfig, "FloatConfig": FloatConfig}


def is_relu6(layer):
    """Whether a layer is an activation that can be a `ReLU`, which tfmot merges."""
    activation = type(layer) is tf_keras.layers.Activation
    return activation and layer.activation.__name__ == "relu6"


def _has_known_activation(layer):
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "linear") in ACTIVATIONS


class Registry(registry.Default8BitQuantizeRegistry):
    """tfmot's table of layers, with our configs."""

    def supports(self, layer):
        return super().supports(layer) and _has_known_activation(layer)

    def takes(self, layer):
        """Whether tfmot quantizes a layer, or replaces it by layers it quantizes."""
        replaced = type(layer).__name__ in REPLACED and _has_known_activation(layer)
        return replaced or is_relu6(layer) or self.supports(layer)

    def get_quantize_config(self, layer):
        return MaskedConfig(super().get_quantize_config(layer))


class Layout(layout_transform.Default8BitQuantizeLayoutTransform):
    """tfmot's changes of a graph, such as the merging of normalizations."""

    def apply(self, model, layer_quantize_map):
        model, chosen = super().apply(model, layer_quantize_map)
        for entry in chosen.values():
            config = entry.get("quantize_config")
            if isinstance(config, configs.Default8BitOutputQuantizeConfig):
                entry["quantize_config"] = MaskedConfig(config)
        return model, chosen


class Scheme(scheme.Default8BitQuantizeScheme):
    """tfmot's scheme for 8 bits, with ours in place of its own parts."""

    def get_quantize_registry(self):
        return Registry()

    def get_layout_transformer(self):
        return Layout()
