"""What tfmot asks to quantize a layer, such that removed weights stay 0.

tfmot's own scheme for pruned models forgets depthwise convolutions, and the masks of a
model that is loaded. Here masks are weights, so files and checkpoints hold them.
This module imports tfmot; `packages` says when.
"""

from __future__ import annotations

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit.default_8bit_quantize_scheme import (  # noqa: E501
    Default8BitQuantizeScheme,
)

from keras_prune_init.layers import kernel_paths


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


class MaskedConfig(tfmot.quantization.keras.QuantizeConfig):
    """A config of tfmot whose quantizers of weights are masked."""

    def __init__(self, inner):
        self.inner = inner

    def get_weights_and_quantizers(self, layer):
        pairs = self.inner.get_weights_and_quantizers(layer)
        return [(weight, MaskedQuantizer(weight, inner)) for weight, inner in pairs]

    def get_activations_and_quantizers(self, layer):
        return self.inner.get_activations_and_quantizers(layer)

    def set_quantize_weights(self, layer, quantize_weights):
        self.inner.set_quantize_weights(layer, quantize_weights)

    def set_quantize_activations(self, layer, quantize_activations):
        self.inner.set_quantize_activations(layer, quantize_activations)

    def get_output_quantizers(self, layer):
        return self.inner.get_output_quantizers(layer)

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


class Registry(default_8bit_quantize_registry.Default8BitQuantizeRegistry):
    """tfmot's table of layers, with masks for those that have kernels."""

    def get_quantize_config(self, layer):
        config = super().get_quantize_config(layer)
        return MaskedConfig(config) if getattr(config, "weight_attrs", ()) else config


class Scheme(Default8BitQuantizeScheme):
    """tfmot's scheme for 8 bits, with masks."""

    def get_quantize_registry(self):
        return Registry()
