"""The residual additions of a network."""

from __future__ import annotations

from typing import NamedTuple

from keras_prune_init.graph.wiring import Node


class Addition(NamedTuple):
    """A residual addition: a shortcut, and the branches that are added to it."""

    position: int  # of the addition in the list of nodes
    branches: tuple[int, ...]  # positions of the branches among its arguments


def residual_additions(nodes: list[Node]) -> list[Addition]:
    """Find the additions of residual blocks, in the order of the signal.

    An argument is the shortcut if two things hold. It shares an origin with the other
    arguments. And it has at most one kernel (a projection) on its own way from there,
    while the others have more.
    """
    # Sets of positions, as bits of integers.
    ancestors: list[int] = []
    kernels = 0
    for i, node in enumerate(nodes):
        known = 1 << i
        for parent in node.parents:
            known |= ancestors[parent]
        ancestors.append(known)
        kernels |= node.has_kernel << i
    found = []
    for i, node in enumerate(nodes):
        parents = node.parents
        if type(node.operation).__name__ != "Add" or len(set(parents)) < 2:
            continue
        ways = [ancestors[p] for p in parents]
        shared = ways[0]
        for way in ways:
            shared &= way
        counts = [(way & ~shared & kernels).bit_count() for way in ways]
        branches = tuple(j for j, n in enumerate(counts) if n > min(counts))
        if shared and min(counts) <= 1 and len(branches) == len(parents) - 1:
            found.append(Addition(i, branches))
    return found
