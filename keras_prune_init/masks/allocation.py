"""How much each kernel loses: from scores and a sparsity to exact masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_prune_init._arguments import (
    REST,
    by_pattern,
    called,
    check_pattern,
    check_whole,
    is_number,
)
from keras_prune_init.masks.densities import ALLOCATIONS, Densities, Shape
from keras_prune_init.masks.top_k import removed_count, top_k_of_all

Scores = Mapping[str, np.ndarray]
Masks = dict[str, np.ndarray]
# A function from the final sparsity to the sparsity of one iteration.
Now = Callable[[float], float]


class Allocation:
    """How much each kernel loses, with a minimum that each one keeps.

    Args:
        rule: One of these:
            `"global"` ranks all weights together.
            `"uniform"` removes the same fraction of every kernel.
            `"erk"` removes less from small kernels.
            A name that was given to `register_allocation`.
            A function `(shapes, density) -> densities` returns the density of each
            kernel.
            A dict gives sparsities. Its keys are regular expressions that are searched
            in the paths of kernels; the first key that is found counts. These kernels
            lose exactly the given fraction each. All other kernels are ranked together
            so that the whole model has the asked `sparsity`. With the key `"*"` each of
            the others loses that fraction instead, and `sparsity` is not used.
        min_per_layer: Number of weights, blocks or channels that every kernel keeps at
            least (or all that it has). Default: 0, because a minimum hides that a layer
            collapses.

    Raises:
        ValueError: If there is no such rule, a sparsity is not in [0, 1), a key is no
            regular expression, or `min_per_layer` is no whole number.

    Example:

    >>> import numpy as np
    >>> import keras_prune_init as kpi
    >>> scores = {"a": np.array([3.0, 1.0, 2.0]), "b": np.array([0.5])}
    >>> kpi.select(scores, 0.5, kpi.Allocation("global", min_per_layer=1))
    {'a': array([ True, False, False]), 'b': array([ True])}
    """

    def __init__(
        self,
        rule: str | Densities | Mapping[str, float] = "global",
        min_per_layer: int = 0,
    ):
        check_whole("min_per_layer", min_per_layer, 0)
        self.rule = _checked_rule(rule)
        self.min_per_layer = min_per_layer

    def __repr__(self):
        return f"Allocation({self.rule!r}, min_per_layer={self.min_per_layer})"

    @classmethod
    def of(cls, value) -> Allocation:
        """Return the `Allocation` that an argument `allocation` stands for."""
        return value if isinstance(value, cls) else cls(value)

    def masks(
        self,
        scores: Scores,
        sparsity: float,
        within: Sequence[np.ndarray] | None = None,
        now: Now = float,
    ) -> Masks:
        """Return the masks of the best weights, `{kernel path: bool array}`.

        Args:
            scores: `{kernel path: array}`.
            sparsity: The final sparsity of all kernels together.
            within: Bool arrays: the entries that can be kept. Default: all.
            now: Function from a final sparsity to the sparsity of this iteration.
                Default: this is the last one.

        Raises:
            ValueError: If the sparsity, the minimum and the sparsities of a dict
                contradict each other, or if a key of a dict is found in no path.
        """
        values = [np.asarray(v) for v in scores.values()]
        total = sum(v.size for v in values)
        keep = total - removed_count(float(now(sparsity)), total)
        if within is not None:  # more may be removed already
            keep = min(keep, sum(int(np.count_nonzero(w)) for w in within))
        if self.rule == "global" and not self.min_per_layer:
            masks = top_k_of_all(values, keep, within)
            return dict(zip(scores, masks, strict=True))
        pools = [np.ones(v.shape, bool) for v in values] if within is None else within
        if isinstance(self.rule, Mapping):
            counts = self._by_pattern(list(scores), values, sparsity, pools, now)
        else:
            counts = self._counts(values, keep, pools, sparsity)
        masks = [
            top_k_of_all([v], k, within and [p])[0]
            for v, k, p in zip(values, counts, pools, strict=True)
        ]
        return dict(zip(scores, masks, strict=True))

    def _counts(self, values, keep, pools, sparsity):
        """Return how many weights each kernel keeps, for a rule that is no dict."""
        sizes = [int(np.count_nonzero(p)) for p in pools]
        floors = [min(self.min_per_layer, n) for n in sizes]
        self._check_room(floors, keep, sparsity)
        if self.rule == "global":
            return _global_counts(values, keep, floors, pools)
        densities = self._densities([v.shape for v in values], keep)
        exact = [d * v.size for d, v in zip(densities, values, strict=True)]
        return _round(exact, keep, floors, sizes)

    def _densities(self, shapes, keep):
        sizes = [int(np.prod(s)) for s in shapes]
        total = max(sum(sizes), 1)
        rule = ALLOCATIONS[self.rule] if isinstance(self.rule, str) else self.rule
        found = called("allocation", rule, shapes, keep / total)
        listed = np.ndim(found) == 1 and np.asarray(found).dtype.kind in "iuf"
        numbers = np.asarray(found, float) if listed else np.zeros(0)
        inside = len(numbers) == len(shapes) and np.all((numbers >= 0) & (numbers <= 1))
        off = abs(numbers @ sizes - keep) / total if inside else 1.0
        if off > 0.01:
            raise ValueError(
                "An allocation must return one density from 0 to 1 for each shape, and "
                f"together they must keep `density`. Received: {found!r} for "
                f"{len(shapes)} shapes and density {keep / total:.6g}. Multiply each "
                "by the size of its tensor to see what they keep."
            )
        return numbers.tolist()

    def _check_room(self, floors, keep, sparsity):
        if sum(floors) > keep:
            raise ValueError(
                "`min_per_layer` must leave room for the sparsity. Received: "
                f"min_per_layer={self.min_per_layer} over {len(floors)} tensors, where "
                f"sparsity={sparsity} keeps {keep} weights. Lower one of the two."
            )

    def _check_floors(self, kept, floors, others, rest):
        """Compare with what each kernel keeps, or all `others` together: `rest`."""
        if np.any((kept < floors)[~others]) or floors[others].sum() > max(rest, 0):
            raise ValueError(
                "`min_per_layer` must leave room for the sparsities of `allocation`. "
                f"Received: min_per_layer={self.min_per_layer} with {self.rule!r}. "
                "Lower one of them."
            )

    def check(self, shapes: Mapping[str, Shape], sparsity: float) -> None:
        """Raise a `ValueError`, before any work, if this does not fit the kernels.

        Args:
            shapes: `{kernel path: shape}` of all kernels that are pruned.
            sparsity: The final sparsity of all kernels together.
        """
        sizes = np.array([math.prod(s) for s in shapes.values()])
        if isinstance(self.rule, Mapping):
            _, others, removed, left = self._split(list(shapes), sizes, sparsity)
            floors = np.minimum(self.min_per_layer, sizes)
            rest = sizes[others].sum() - left
            self._check_floors(sizes - removed, floors, others, rest)
            return
        keep = sizes.sum() - removed_count(sparsity, sizes.sum())
        self._check_room(np.minimum(self.min_per_layer, sizes), keep, sparsity)
        if self.rule != "global":
            self._densities(list(shapes.values()), keep)

    def _split(self, paths, sizes, sparsity):
        """Return what a dict says of each kernel, and how much the two parts lose.

        That is a list of sparsities (`None` where the dict says nothing), where it says
        nothing, what each kernel with a sparsity loses, and all others together.
        """
        goals = by_pattern("allocation", self.rule, paths)
        others = np.array([goal is None for goal in goals], bool)
        pairs = zip(goals, sizes, strict=True)
        removed = np.array([0 if g is None else removed_count(g, n) for g, n in pairs])
        rest = sizes[others].sum()
        left = removed_count(sparsity, sizes.sum()) - removed.sum()
        if rest and not 0 <= left < rest:
            least = math.ceil(removed.sum() / sizes.sum() * 1e6) / 1e6
            most = math.floor((removed.sum() + rest - 1) / sizes.sum() * 1e6) / 1e6
            raise ValueError(
                "`sparsity` is that of the whole model, and `allocation` says how much "
                f"some kernels lose. Received: sparsity={sparsity}, but with "
                f"allocation={self.rule!r} it can be from {least:.6g} to {most:.6g}. "
                "Pass one of these, or add the key '*' for what all others lose."
            )
        return goals, others, removed, left

    def _by_pattern(self, paths, values, sparsity, pools, now):
        sizes = np.array([v.size for v in values])
        goals, others, removed, left = self._split(paths, sizes, sparsity)
        rest = sizes[others].sum()
        inside = np.array([np.count_nonzero(p) for p in pools])
        pool = inside[others].sum()
        lost = ~others & (sizes - removed > inside)
        if lost.any() or (rest and rest - left > pool):
            raise ValueError(
                "A pruned model keeps its zeros, so no sparsity of `allocation` can "
                f"be lower than before. Received: allocation={self.rule!r}, where a "
                "kernel has lost more already. Pass more, or `strip` the model first."
            )
        floors = np.minimum(self.min_per_layer, inside)
        self._check_floors(sizes - removed, floors, others, rest - left)
        kept = [
            0 if g is None else min(n - removed_count(float(now(g)), n), p)
            for g, n, p in zip(goals, sizes, inside, strict=True)
        ]
        counts = np.array(kept)
        if rest:
            keep = rest - removed_count(float(now(float(left / rest))), rest)
            counts[others] = _global_counts(
                list(itertools.compress(values, others)),
                min(int(keep), int(pool)),
                floors[others].tolist(),
                list(itertools.compress(pools, others)),
            )
        return counts.tolist()


def _checked_rule(rule):
    if isinstance(rule, Mapping):
        for pattern, sparsity in rule.items():
            if not is_number(sparsity) or not 0 <= sparsity < 1:
                raise ValueError(
                    "A dict `allocation` has sparsities as values, numbers with 0 <= "
                    f"sparsity < 1. Received: {pattern!r}: {sparsity!r}. For 98 %, "
                    "pass 0.98."
                )
            if pattern != REST:
                rule_of_keys = "A dict `allocation` has regular expressions as keys"
                check_pattern(rule_of_keys, pattern)
        if not rule:
            raise ValueError(
                "A dict `allocation` must say how much some kernels lose. Received: {}."
                " Pass for example {'logits': 0.5}."
            )
        return dict(rule)
    named = isinstance(rule, str) and rule in ALLOCATIONS
    if not named and (not callable(rule) or isinstance(rule, type)):
        raise ValueError(
            f"`allocation` must be one of {', '.join(map(repr, ALLOCATIONS))}, a "
            "function (shapes, density) -> densities, a dict from pattern to sparsity, "
            f"or an `Allocation`. Received: allocation={rule!r}. Choose one of them."
        )
    return rule


def _global_counts(values, keep, floors, pools):
    """Give every kernel its minimum first, and then the best of what is left."""
    parts = list(zip(values, floors, pools, strict=True))
    first = [top_k_of_all([v], k, [p])[0] for v, k, p in parts]
    rest = [p & ~m for p, m in zip(pools, first, strict=True)]
    more = top_k_of_all(values, keep - sum(floors), rest)
    return [k + int(np.count_nonzero(m)) for k, m in zip(floors, more, strict=True)]


def _round(exact, keep, floors, sizes):
    """Round to whole counts with the exact sum: largest remainders first."""
    floors, sizes = np.array(floors), np.array(sizes)
    exact = _scaled(np.array(exact, float), keep, floors, sizes)
    counts = np.floor(exact + 1e-9).astype(int)
    while counts.sum() != keep:
        step = 1 if counts.sum() < keep else -1
        free = counts < sizes if step > 0 else counts > floors
        gain = np.where(free, step * (exact - counts), -np.inf)
        some = min(abs(keep - counts.sum()), np.count_nonzero(free))
        counts[np.argsort(-gain, kind="stable")[:some]] += step
    return counts.tolist()


def _scaled(exact, keep, floors, sizes):
    """Counts with the sum `keep`, in proportion to `exact` within their bounds."""
    factor = 1.0
    for _ in range(100):
        counts = np.clip(exact * factor, floors, sizes)
        free = (counts > floors) & (counts < sizes)
        off = keep - counts.sum()
        if abs(off) < 0.5 or not counts[free].sum():
            break
        factor *= 1 + off / counts[free].sum()
    return counts
