"""Products with the kept weights of a kernel, in numba: the loops of `layout="sparse"`.

A tile holds some hundred columns (samples, tokens, pixels) of all features, one feature
a row, so that the innermost loops run over numbers that are neighbours in memory, and
become vector instructions of whatever processor this is. Four kept weights are used in
each pass over a row: a pass with one would load and store its sums for every product.

One task is a tile and a block of rows. Every number is summed by one task, in one
order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

# Sums may be reordered, so that they become vectors. NaN and infinity stay what they
# are.
_compiled = numba.njit(
    parallel=True,
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz", "arcp"},
)
_MOST = numba.get_num_threads()
# Indices without a sign, or each access would ask whether it counts from the end.
_u = np.uintp


def use_threads(count: int) -> None:
    """Run what follows in this thread on so many processors; 0: on all."""
    numba.set_num_threads(min(count or _MOST, _MOST))


@_compiled
def forward(x, values, scale, ends, starts, places, blocks, live, y):
    """Compute each output row: the sum of values times input rows, times a factor.

    Args:
        x: Tiles, each as one flat vector.
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of output j are at `ends[j]:ends[j + 1]` in the next two.
        starts: Where in a tile the inputs of a weight begin.
        places: Where in `values` it is.
        blocks: Outputs `blocks[i]:blocks[i + 1]` are one task of each tile.
        live: How many columns of a tile are computed; the others are 0.
        y: The result, tiles of output rows.
    """
    width, count = _u(live), blocks.shape[0] - 1
    for task in prange(x.shape[0] * count):
        tile, out, block = x[task // count], y[task // count], task % count
        for j in range(blocks[block], blocks[block + 1]):
            row, k, end = out[j], ends[j], ends[j + 1]
            for b in range(row.shape[0]):
                row[b] = 0
            while k + 4 <= end:
                v0, v1 = values[places[k]], values[places[k + 1]]
                v2, v3 = values[places[k + 2]], values[places[k + 3]]
                s0, s1 = _u(starts[k]), _u(starts[k + 1])
                s2, s3 = _u(starts[k + 2]), _u(starts[k + 3])
                for b in range(width):
                    low = v0 * tile[s0 + b] + v1 * tile[s1 + b]
                    row[b] += low + v2 * tile[s2 + b] + v3 * tile[s3 + b]
                k += 4
            while k < end:
                v0, s0 = values[places[k]], _u(starts[k])
                for b in range(width):
                    row[b] += v0 * tile[s0 + b]
                k += 1
            for b in range(width):
                row[b] *= scale[j]


@_compiled
def backward(x, slopes, values, scale, ends, others, starts, places, blocks, dx, parts):
    """Compute the gradients of inputs and of kept weights from the same loads.

    Args:
        x: Tiles of input rows.
        slopes: Gradients of the outputs: tiles, each as one flat vector.
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of input i are at `ends[i]:ends[i + 1]` in the next three.
        others: The output of a weight.
        starts: Where in a tile the slopes of a weight begin. Before its start, where
            those of shifted images may begin, they count as 0.
        places: Where in `values` it is.
        blocks: Inputs `blocks[i]:blocks[i + 1]` are one task.
        dx: The gradients of inputs, tiles of input rows.
        parts: The gradients of kept weights: vectors to be added up, one for each group
            of tiles.
    """
    count, groups = blocks.shape[0] - 1, parts.shape[0]
    width, each = _u(x.shape[2]), (x.shape[0] + groups - 1) // groups
    for task in prange(groups * count):
        block, group = task % count, task // count
        first, last = blocks[block], blocks[block + 1]
        part = parts[group]
        for k in range(ends[first], ends[last]):
            part[places[k]] = 0
        for t in range(group * each, min(x.shape[0], (group + 1) * each)):
            slope = slopes[t]
            for i in range(first, last):
                given, row, k, end = x[t, i], dx[t, i], ends[i], ends[i + 1]
                for b in range(width):
                    row[b] = 0
                while k < end and others[k] == 0:
                    skipped, f0, g0 = -starts[k], scale[others[k]], np.float32(0)
                    v0 = f0 * values[places[k]]
                    for b in range(x.shape[2] - skipped):
                        row[skipped + b] += v0 * slope[b]
                        g0 += given[skipped + b] * slope[b]
                    part[places[k]] += f0 * g0
                    k += 1
                while k + 4 <= end:
                    f0, f1 = scale[others[k]], scale[others[k + 1]]
                    f2, f3 = scale[others[k + 2]], scale[others[k + 3]]
                    v0, v1 = f0 * values[places[k]], f1 * values[places[k + 1]]
                    v2, v3 = f2 * values[places[k + 2]], f3 * values[places[k + 3]]
                    s0, s1 = _u(starts[k]), _u(starts[k + 1])
                    s2, s3 = _u(starts[k + 2]), _u(starts[k + 3])
                    g0 = g1 = g2 = g3 = np.float32(0)
                    for b in range(width):
                        d0, d1 = slope[s0 + b], slope[s1 + b]
                        d2, d3 = slope[s2 + b], slope[s3 + b]
                        row[b] += v0 * d0 + v1 * d1 + v2 * d2 + v3 * d3
                        g0 += given[b] * d0
                        g1 += given[b] * d1
                        g2 += given[b] * d2
                        g3 += given[b] * d3
                    part[places[k]] += f0 * g0
                    part[places[k + 1]] += f1 * g1
                    part[places[k + 2]] += f2 * g2
                    part[places[k + 3]] += f3 * g3
                    k += 4
                while k < end:
                    f0, s0, g0 = scale[others[k]], _u(starts[k]), np.float32(0)
                    v0 = f0 * values[places[k]]
                    for b in range(width):
                        d0 = slope[s0 + b]
                        row[b] += v0 * d0
                        g0 += given[b] * d0
                    part[places[k]] += f0 * g0
                    k += 1


@_compiled
def add_up(parts, total):
    """Add vectors, in their order."""
    for k in prange(total.shape[0]):
        total[k] = parts[0, k]
        for group in range(1, parts.shape[0]):
            total[k] += parts[group, k]


@_compiled
def look_up(ids, values, scale, ends, others, places, rows):
    """Write the kept weights of some rows of a matrix into rows of zeros.

    The weights of row i are at `ends[i]:ends[i + 1]` in `others`, their columns, and in
    `places`, where they are in `values`.
    """
    for n in prange(ids.shape[0]):
        row, i = rows[n], ids[n]
        for column in range(row.shape[0]):
            row[column] = 0
        for k in range(ends[i], ends[i + 1]):
            row[others[k]] = values[places[k]] * scale[others[k]]


@_compiled
def look_up_slopes(ids, order, changes, dy, scale, ends, others, places, slopes):
    """Add the gradients of rows up for each kept weight.

    `order` sorts `ids`, and equal ones are at `changes[j]:changes[j + 1]` of it.
    """
    for j in prange(changes.shape[0] - 1):
        i = ids[order[changes[j]]]
        for n in range(changes[j], changes[j + 1]):
            row = dy[order[n]]
            for k in range(ends[i], ends[i + 1]):
                slopes[places[k]] += row[others[k]] * scale[others[k]]


@numba.njit(nogil=True, cache=True)
def differ(one, other):
    """Return whether two vectors of whole numbers differ."""
    found = 0
    for k in range(one.shape[0]):
        found |= one[k] ^ other[k]
    return found != 0
