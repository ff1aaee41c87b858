"""What rounds go back to: weights, optimizer and random draws of an earlier moment."""

from __future__ import annotations

import io
import pathlib
from typing import NamedTuple

import keras
import numpy as np

from keras_prune_init._files import atomic, regular
from keras_prune_init.distribute import replicas
from keras_prune_init.layers.kernels import find_kernels
from keras_prune_init.layers.walk import flatten, held
from keras_prune_init.surgery import exchange, layouts


class State(NamedTuple):
    """Weights and optimizer of a model at a step of its training, as arrays.

    The optimizer has none if the model was not compiled. `epoch` is that of the next
    step, counted from 0.
    """

    epoch: int
    weights: list[np.ndarray]
    optimizer: list[np.ndarray]

    @classmethod
    def of(cls, model: keras.Model, epoch: int = 0) -> State:
        """Return the state of a model with masks, in the layout `"masked"`."""
        replicas.average_statistics(model)
        variables = exchange.weights_of(model), _optimizer_variables(model)
        return cls(epoch, *([_array(v) for v in part] for part in variables))

    def restore(self, model: keras.Model) -> None:
        """Bring a copy of the model back to the state; removed weights stay removed."""
        for variable, value in zip(
            exchange.weights_of(model), self.weights, strict=True
        ):
            variable.assign(value)
        kernels = [k for k in find_kernels(model) if k.wrapper]
        for kernel in kernels:
            kernel.assign(kernel.variable.value)
        if not self.optimizer:
            return
        variables = _optimizer_variables(model)
        for variable, value in zip(variables, self.optimizer, strict=True):
            variable.assign(value)
        # Else a momentum would move weights that are removed.
        with model.distribute_strategy.scope():
            slots = layouts.slots_of(model.optimizer, model.trainable_variables)
        for kernel in kernels:
            for slot in slots[id(kernel.variable)]:
                if tuple(slot.variable.shape) == kernel.shape:
                    stays = np.asarray(kernel.mask)
                    slot.variable.assign(slot.where(stays, slot.variable))

    def write(self, path: pathlib.Path) -> None:
        """Write the state to a file."""
        counts = [self.epoch, len(self.weights), len(self.optimizer)]
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, np.array(counts), *self.weights, *self.optimizer)

    @classmethod
    def read(cls, path: pathlib.Path) -> State:
        """Return the state in a file; any error means that the file is damaged."""
        with np.load(io.BytesIO(regular(path).read_bytes())) as file:
            counts, *arrays = (file[f"arr_{i}"] for i in range(len(file.files)))
        epoch, weights, optimizer = map(int, counts)
        if len(arrays) != weights + optimizer:
            raise ValueError(f"it has {len(arrays)} arrays")
        return cls(epoch, arrays[:weights], arrays[weights:])


def optimizer_of(model: keras.Model) -> keras.optimizers.Optimizer | None:
    """Return the optimizer of a model, or `None` if it was not compiled."""
    return getattr(model, "optimizer", None)


def steps_taken(model: keras.Model) -> int:
    """Return how many batches a compiled model was trained on, in all processes."""
    counts = [own_counter(model.optimizer), model.optimizer.iterations]
    return max(int(keras.ops.convert_to_numpy(count)) for count in counts)


def batches_taken(model: keras.Model) -> int:
    """Return on how many batches a compiled model was trained.

    Several of them make a step if the optimizer accumulates gradients.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.gradient_accumulation_steps:
        return steps_taken(model)
    return int(keras.ops.convert_to_numpy(optimizer.variables[0]))


def own_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the step counter of the optimizer itself.

    An optimizer that scales the loss of float16 shows the counter of the inner one,
    which leaves out skipped steps. Its own counter stays at 0.
    """
    return keras.optimizers.Optimizer.iterations.fget(optimizer)


def set_steps(model: keras.Model, steps: int) -> None:
    """Let the optimizer of a model count on from a number of steps."""
    build_optimizer(model)
    for count in (model.optimizer.iterations, own_counter(model.optimizer)):
        count.assign(steps)


def build_optimizer(model: keras.Model) -> None:
    """Make the variables of a model's optimizer, if there are none yet."""
    if not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def fix_seed(seed: int, number: int) -> np.random.SeedSequence:
    """Set the seed of the process for a round; return where others come from."""
    draws = np.random.SeedSequence([seed, number])
    keras.utils.set_random_seed(int(draws.generate_state(1)[0]))
    return draws


def fix_draws(model: keras.Model, seed: int, number: int) -> None:
    """Set the seeds of the process and of a model's layers for a round.

    Files of models do not hold the state of dropout, so what a resumed round draws must
    not depend on it.
    """
    draws = fix_seed(seed, number)
    for layer in flatten(model):
        for _, generator in held(layer, keras.random.SeedGenerator):
            [child] = draws.spawn(1)
            generator.state.assign([int(child.generate_state(1)[0]) >> 1, 0])


def _optimizer_variables(model):
    if not optimizer_of(model):
        return []
    build_optimizer(model)
    return model.optimizer.variables


def _array(variable):
    value = keras.ops.convert_to_numpy(variable)
    # numpy's files know no bfloat16.
    return value if value.dtype.isbuiltin == 1 else value.astype("float32")
