"""Products with the kept weights of a kernel, in numba: the loops of `layout="sparse"`.

A tile holds some hundred columns (samples, tokens, pixels) of all features, one feature
a row, so that the innermost loops run over numbers that are neighbours in memory, and
become vector instructions of whatever processor this is. Four kept weights are used in
each pass over a row: a pass with one would load and store its sums for every product.

One task is a tile and a block of rows. Every number is summed by one task, in one
order, so results do not depend on the number of threads.

All of it is one file, because numba's cache of a function looks at the time of its own
file only: a function that it calls could change in another one, and go unnoticed.
"""

from __future__ import annotations

import os

import numba
import numpy as np
from numba import prange

# Sums may be reordered, so that they become vectors. NaN and infinity stay what they
# are.
_FAST = {"reassoc", "contract", "nsz", "arcp"}


def _compiled(function):
    """Compile a function that runs on all processors."""
    how = {"parallel": True, "nogil": True, "error_model": "numpy", "fastmath": _FAST}
    try:
        return numba.njit(cache=True, **how)(function)
    except RuntimeError:  # there is no folder to which it could write
        return numba.njit(**how)(function)


def _started_threads():
    """Start numba's threads, and return how many there are.

    Those of GNU's OpenMP spin while they wait, unless they are told to sleep when they
    are loaded. They would take the processors from TensorFlow's threads: on two cores,
    of which another program used one, products took three times as long.
    """
    name = "OMP_WAIT_POLICY"
    if name in os.environ:
        return numba.get_num_threads()
    os.environ[name] = "PASSIVE"
    try:
        return numba.get_num_threads()
    finally:
        del os.environ[name]


_MOST = _started_threads()
# Called by those only.
_part = numba.njit(nogil=True, error_model="numpy", fastmath=_FAST)
_TASKS = 64  # for processors that share the tiles of images
_LANES = 16  # channels that are transposed at once: a cache line of them
# Indices without a sign, or each access would ask whether it counts from the end.
_u = np.uintp


def use_threads(count: int) -> None:
    """Run what follows in this thread on so many processors; 0: as many as before."""
    if count:
        numba.set_num_threads(min(count, _MOST))


@_part
def _add(row, tile, values, places, starts, k, end, width):
    """Add `values[places[k]]` times the columns of a tile from `starts[k]` to a row."""
    while k + 4 <= end:
        v0, v1 = values[places[k]], values[places[k + 1]]
        v2, v3 = values[places[k + 2]], values[places[k + 3]]
        s0, s1 = _u(starts[k]), _u(starts[k + 1])
        s2, s3 = _u(starts[k + 2]), _u(starts[k + 3])
        for b in range(_u(width)):
            low = v0 * tile[s0 + b] + v1 * tile[s1 + b]
            row[b] += low + v2 * tile[s2 + b] + v3 * tile[s3 + b]
        k += 4
    while k < end:
        v0, s0 = values[places[k]], _u(starts[k])
        for b in range(_u(width)):
            row[b] += v0 * tile[s0 + b]
        k += 1


@_part
def _add_slopes(row, given, slopes, values, scale, by_row, k, end, part):
    """Add the gradients of an input to a row, and those of its kept weights to `part`.

    The slopes of a weight are those of its output, from `starts[k]`; before the first
    they count as 0, where those of shifted images begin.
    """
    others, starts, places = by_row
    width = given.shape[0]
    while k < end and others[k] == 0:
        skipped, f0, g0 = -starts[k], scale[others[k]], np.float32(0)
        v0 = f0 * values[places[k]]
        for b in range(width - skipped):
            row[skipped + b] += v0 * slopes[b]
            g0 += given[skipped + b] * slopes[b]
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
        for b in range(_u(width)):
            d0, d1, d2, d3 = (
                slopes[s0 + b],
                slopes[s1 + b],
                slopes[s2 + b],
                slopes[s3 + b],
            )
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
        for b in range(_u(width)):
            d0 = slopes[s0 + b]
            row[b] += v0 * d0
            g0 += given[b] * d0
        part[places[k]] += f0 * g0
        k += 1


@_compiled
def multiply(x, values, scale, ends, by_unit, blocks, y):
    """Multiply tiles of few samples by a matrix; a task is some rows of a tile.

    Args:
        x: Tiles, each as one flat vector.
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of output j are at `ends[j]:ends[j + 1]` in `by_unit`.
        by_unit: Inputs, where in a tile they begin, and where in `values` a weight is.
        blocks: Outputs `blocks[i]:blocks[i + 1]` are one task of each tile.
        y: The result, tiles of output rows.
    """
    _, starts, places = by_unit
    width, count = y.shape[2], blocks.shape[0] - 1
    for task in prange(x.shape[0] * count):
        tile, out, block = x[task // count], y[task // count], task % count
        for j in range(blocks[block], blocks[block + 1]):
            row = out[j]
            row[:] = 0
            _add(row, tile, values, places, starts, ends[j], ends[j + 1], width)
            for b in range(width):
                row[b] *= scale[j]


@_compiled
def multiply_slopes(x, slopes, values, scale, ends, by_row, blocks, dx, parts):
    """Compute the gradients of inputs and of kept weights from the same loads.

    Args:
        x: Tiles of input rows.
        slopes: Gradients of the outputs: tiles, each as one flat vector.
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of input i are at `ends[i]:ends[i + 1]` in `by_row`.
        by_row: Outputs, where in a tile they begin, and where in `values` a weight is.
        blocks: Inputs `blocks[i]:blocks[i + 1]` are one task.
        dx: The gradients of inputs, tiles of input rows.
        parts: The gradients of kept weights: vectors to be added up, one for each group
            of tiles.
    """
    count, groups = blocks.shape[0] - 1, parts.shape[0]
    each = (x.shape[0] + groups - 1) // groups
    for task in prange(groups * count):
        block, group = task % count, task // count
        first, last = blocks[block], blocks[block + 1]
        part = parts[group]
        for k in range(ends[first], ends[last]):
            part[by_row[2][k]] = 0
        for t in range(group * each, min(x.shape[0], (group + 1) * each)):
            for i in range(first, last):
                row, k, end = dx[t, i], ends[i], ends[i + 1]
                row[:] = 0
                _add_slopes(
                    row, x[t, i], slopes[t], values, scale, by_row, k, end, part
                )


@_part
def _along(phase, before, step, size, places):
    """Return the first pixel of a phase, its place along the axis, and their number.

    There are `size` pixels, zeros `before` them, and `places` in the tile.
    """
    pixel = ((phase - before) % step + step) % step
    place = (pixel + before) // step
    return pixel, place, min((size - pixel + step - 1) // step, places - place)


@_part
def _region(shape, planes, phase):
    """Return `_along` down and right, for the pixels of a phase of both strides."""
    _, down, right, top, left, steps_down, steps_right = planes
    up, side = phase // steps_right, phase % steps_right
    return (
        _along(up, top, steps_down, shape[1], down),
        _along(side, left, steps_right, shape[2], right),
    )


@_part
def _read(images, first, planes, phase, tile):
    """Write some images into a tile: the pixels of a channel become a row.

    `planes` has: images of a tile, rows and columns of pixels in it, zeros above and at
    the left, strides down and right. Of these, `phase` counts the pixels that are read.
    """
    each, down, right, _, _, steps_down, steps_right = planes
    (h, row, rows), (w, column, columns) = _region(images.shape, planes, phase)
    count, channels = images.shape[0], images.shape[3]
    for low in range(0, channels, _LANES):
        high = min(channels, low + _LANES)
        for image in range(min(each, count - first)):
            for i in range(rows):
                line = images[first + image, h + i * steps_down]
                place = (image * down + row + i) * right + column
                for j in range(columns):
                    pixel = line[w + j * steps_right]
                    if high - low == _LANES:
                        for c in range(_LANES):
                            tile[low + c, place + j] = pixel[low + c]
                    else:
                        for c in range(low, high):
                            tile[c, place + j] = pixel[c]


@_part
def _write(tile, low, high, images, first, planes, phase):
    """Do the reverse of `_read`, for the channels from `low` to `high`."""
    each, down, right, _, _, steps_down, steps_right = planes
    (h, row, rows), (w, column, columns) = _region(images.shape, planes, phase)
    count = images.shape[0]
    for image in range(min(each, count - first)):
        for i in range(rows):
            line = images[first + image, h + i * steps_down]
            place = (image * down + row + i) * right + column
            for j in range(columns):
                pixel = line[w + j * steps_right]
                if high - low == _LANES:
                    for c in range(_LANES):
                        pixel[low + c] = tile[c, place + j]
                else:
                    for c in range(low, high):
                        pixel[c] = tile[c - low, place + j]


@_compiled
def convolve(x, values, scale, ends, by_unit, live, planes, outputs, y):
    """Convolve images; a task is a tile of them, which stays in the cache.

    Args:
        x: Images, (samples, down, right, channels).
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of output j are at `ends[j]:ends[j + 1]` in `by_unit`.
        by_unit: Inputs, where in a tile they begin, and where in `values` a weight is.
        live: How many pixels of a tile are computed; the others are no outputs.
        planes: How images are in a tile; see `_read`.
        outputs: The same for `y`.
        y: The result, images.
    """
    _, starts, places = by_unit
    each, width = planes[0], planes[0] * planes[1] * planes[2]
    phases, channels, units = planes[5] * planes[6], x.shape[3], y.shape[3]
    tiles = (x.shape[0] + each - 1) // each
    some = (tiles + _TASKS - 1) // _TASKS
    for task in prange((tiles + some - 1) // some):
        # Zeros between images stay.
        tile = np.zeros((phases * channels, width), np.float32)
        flat, out = tile.reshape(-1), np.empty((_LANES, width), np.float32)
        for t in range(task * some, min(tiles, (task + 1) * some)):
            for phase in range(phases):
                rows = tile[phase * channels : (phase + 1) * channels]
                _read(x, t * each, planes, phase, rows)
            for low in range(0, units, _LANES):
                high = min(units, low + _LANES)
                for j in range(low, high):
                    row = out[j - low]
                    row[:live] = 0
                    _add(row, flat, values, places, starts, ends[j], ends[j + 1], live)
                    for b in range(live):
                        row[b] *= scale[j]
                _write(out, low, high, y, t * each, outputs, 0)


@_compiled
def convolve_slopes(x, dy, values, scale, ends, by_row, planes, outputs, dx, parts):
    """Compute the gradients of images and of kept weights from the same loads.

    Args:
        x: Images, (samples, down, right, channels).
        dy: Gradients of the outputs.
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of input i are at `ends[i]:ends[i + 1]` in `by_row`.
        by_row: Outputs, where in a tile they begin, and where in `values` a weight is.
        planes: How images are in a tile; see `_read`.
        outputs: The same for `dy`.
        dx: The gradients of images.
        parts: The gradients of kept weights: vectors to be added up, one for each group
            of tiles.
    """
    each, width = planes[0], planes[0] * planes[1] * planes[2]
    phases, channels, units = planes[5] * planes[6], x.shape[3], dy.shape[3]
    tiles, groups = (x.shape[0] + each - 1) // each, parts.shape[0]
    some = (tiles + groups - 1) // groups
    for group in prange(groups):
        part = parts[group]
        part[:] = 0
        # Zeros between images stay.
        slopes = np.zeros((units, width), np.float32)
        tile = np.zeros((phases * channels, width), np.float32)
        flat, out = slopes.reshape(-1), np.empty((_LANES, width), np.float32)
        for t in range(group * some, min(tiles, (group + 1) * some)):
            first = t * each
            if x.shape[0] - first < each:  # or the images before would count again
                slopes[:] = 0
            if phases > 1 or planes[1] < x.shape[1] or planes[2] < x.shape[2]:
                dx[first : first + each] = 0  # pixels that no window sees
            _read(dy, first, outputs, 0, slopes)
            for phase in range(phases):
                rows = tile[phase * channels : (phase + 1) * channels]
                _read(x, first, planes, phase, rows)
                for low in range(0, channels, _LANES):
                    high = min(channels, low + _LANES)
                    for c in range(low, high):
                        row, i = out[c - low], phase * channels + c
                        row[:] = 0
                        k, end = ends[i], ends[i + 1]
                        _add_slopes(
                            row, rows[c], flat, values, scale, by_row, k, end, part
                        )
                    _write(out, low, high, dx, first, planes, phase)


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
