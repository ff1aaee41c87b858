"""Products with the kept weights of a kernel, in numba: the loops of `layout="sparse"`.

A tile holds some columns (samples, tokens, pixels) of all features, one feature a row,
so that what is added for a kept weight is a row of neighbours in memory. Sums of
`WIDTH` columns stay in vector registers for all weights of a line. Samples become
tiles, and tiles samples, by shuffles of vectors: in a fifth of the time of
`tf.transpose`. These three are written in the language of LLVM, which makes them
instructions of whatever processor this is; loops in Python became slower ones.

One task is a tile and a block of rows. Every number is summed by one task, in one
order, so results do not depend on the number of threads.

All of it is one file, because numba's cache of a function looks at the time of its own
file only: a function that it calls could change in another one, and go unnoticed.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

# Sums may be reordered, so that they become vectors. NaN and infinity stay what they
# are.
_FLAGS = ("reassoc", "contract", "nsz", "arcp")
_HOW: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(_FLAGS)}


def _compiled(function):
    """Compile a function that runs on all processors."""
    try:
        return numba.njit(cache=True, parallel=True, **_HOW)(function)
    except RuntimeError:  # there is no folder to which it could write
        return numba.njit(parallel=True, **_HOW)(function)


def _started_threads():
    """Start numba's threads, and return how many there are.

    Those of GNU's OpenMP spin while they wait, for as long as they are told when they
    are loaded: usually milliseconds. They would take the processors from TensorFlow's
    threads: on two cores, of which another program used one, products took three times
    as long. Some microseconds save them to sleep within a product.
    """
    name = "GOMP_SPINCOUNT"
    if name in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return numba.get_num_threads()
    os.environ[name] = "300"
    try:
        return numba.get_num_threads()
    finally:
        del os.environ[name]


_MOST = _started_threads()
# Called by those only.
_part = numba.njit(**_HOW)
_TASKS = 64  # for processors that share the tiles of images
_LANES = 64  # rows of a tile that are computed, then transposed: some cache lines
_LINE = 16  # numbers of a cache line
_SIDE = 8  # of the blocks that are transposed in registers
# Indices without a sign, or each access would ask whether it counts from the end.
_u = np.uintp

_INDEX = ir.IntType(32)  # of what is in a vector
_VECTOR = ir.VectorType(ir.FloatType(), 16)  # LLVM divides it for smaller registers
_SUMS = 4  # vectors of sums, for which there are registers
WIDTH = 16 * _SUMS


def use_threads(count: int) -> None:
    """Run what follows in this thread on so many processors; 0: as many as before."""
    if count:
        numba.set_num_threads(min(count, _MOST))


@intrinsic
def _transpose_block(typing, source, pitch, target, target_pitch):
    """Transpose `_SIDE` rows; all arguments are in bytes.

    It is the code of LLVM, because no loop became shuffles of vectors.
    """

    def build(context, builder, signature, arguments):
        source, pitch, target, target_pitch = arguments
        vector = ir.VectorType(ir.FloatType(), _SIDE)
        lanes = ir.VectorType(_INDEX, _SIDE)

        def at(first, pitch, row):
            place = builder.add(first, builder.mul(pitch, ir.Constant(pitch.type, row)))
            return builder.inttoptr(place, vector.as_pointer())

        rows = [builder.load(at(source, pitch, k), align=4) for k in range(_SIDE)]
        half = 1
        while half < _SIDE:  # exchange the halves of blocks of 2, 4 and 8 rows
            low = [k if not k & half else k - half + _SIDE for k in range(_SIDE)]
            high = [k + half if not k & half else k + _SIDE for k in range(_SIDE)]
            low, high = ir.Constant(lanes, low), ir.Constant(lanes, high)
            for k in range(_SIDE):
                if not k & half:
                    pair = rows[k], rows[k + half]
                    rows[k] = builder.shuffle_vector(*pair, low)
                    rows[k + half] = builder.shuffle_vector(*pair, high)
            half *= 2
        for k, row in enumerate(rows):
            builder.store(row, at(target, target_pitch, k), align=4)
        return context.get_dummy_value()

    return types.void(types.uintp, types.intp, types.uintp, types.intp), build


@_part
def _transpose(source, target):
    """Write the transposed matrix; numbers of a row are neighbours in memory."""
    rows, columns = source.shape
    pitch, target_pitch, size = source.strides[0], target.strides[0], source.itemsize
    first, target_first = source.ctypes.data, target.ctypes.data
    high, wide = rows - rows % _SIDE, columns - columns % _SIDE
    # A cache line of each row at a time, as all rows together need not fit in a cache.
    for low in range(0, wide, _LINE):
        for r in range(0, high, _SIDE):
            for c in range(low, min(wide, low + _LINE), _SIDE):
                start = _u(first + r * pitch + c * size)
                end = _u(target_first + c * target_pitch + r * size)
                _transpose_block(start, pitch, end, target_pitch)
    for r in range(high, rows):
        for c in range(wide):
            target[c, r] = source[r, c]
    for c in range(wide, columns):
        for r in range(rows):
            target[c, r] = source[r, c]


def _address(context, builder, array, place):
    """Return the address of one number of a flat array; both have their types."""
    (kind, array), (_, place) = array, place
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])


def _vectors(builder, address):
    """Return the addresses of `_SUMS` vectors, one behind the other."""
    first = builder.bitcast(address, _VECTOR.as_pointer())
    return [builder.gep(first, [_INDEX(k)]) for k in range(_SUMS)]


def _loaded(builder, address):
    return [builder.load(v, align=4) for v in _vectors(builder, address)]


def _stored(builder, sums, address):
    for total, to in zip(sums, _vectors(builder, address), strict=True):
        builder.store(builder.load(total), to, align=4)


def _zeros(builder):
    zero = _VECTOR([0.0] * 16)
    return [cgutils.alloca_once_value(builder, zero) for _ in range(_SUMS)]


def _add_product(builder, total, one, other):
    product = builder.fmul(one, other, flags=_FLAGS)
    builder.store(builder.fadd(builder.load(total), product, flags=_FLAGS), total)


@contextlib.contextmanager
def _each_weight(context, builder, line, tile, places=None):
    """Loop over the weights of a line: place, weight, and the vectors that it reads."""
    values, starts, (n, first), (_, last), (_, unit) = line
    index = unit.type

    def load(array, place):
        return builder.load(_address(context, builder, array, (n, place)))

    with cgutils.for_range_slice(builder, first, last, index(1), index) as (k, _):
        place = builder.sext(load(places, k), index) if places else k
        vector, value = _VECTOR(ir.Undefined), load(values, place)
        vector = builder.insert_element(vector, value, _INDEX(0))
        same = ir.VectorType(_INDEX, 16)([0] * 16)
        vector = builder.shuffle_vector(vector, vector, same)
        start = builder.mul(builder.sext(load(starts, k), index), unit)
        yield place, vector, _loaded(builder, builder.gep(tile, [start]))


@intrinsic
def _sum(typing, values, starts, first, last, unit, tile, column, out, to):
    """Write the sum of rows of a tile, each times a weight, in `WIDTH` columns.

    Weights `first` to `last` read from `column + unit * starts[k]` on in the flat tile,
    and the sums go to `to` in the flat `out`.
    """
    n = types.intp
    kinds = values, starts, n, n, n, tile, n, out, n

    def build(context, builder, signature, arguments):
        *line, tile, column, out, to = zip(kinds, arguments, strict=True)
        sums, tile = _zeros(builder), _address(context, builder, tile, column)
        with _each_weight(context, builder, line, tile) as (_, value, read):
            for total, vector in zip(sums, read, strict=True):
                _add_product(builder, total, value, vector)
        _stored(builder, sums, _address(context, builder, out, to))
        return context.get_dummy_value()

    return types.void(*kinds), build


@intrinsic
def _sum_slopes(
    typing,
    values,
    places,
    starts,
    first,
    end,
    unit,
    tile,
    column,
    given,
    out,
    to,
    slopes,
):
    """Do the same for gradients of an input, and add those of its weights up.

    The latter are products with the input, which is at `to` in the flat `given`.
    Weights and their gradients are at `places[k]`.
    """
    n = types.intp
    kinds = values, places, starts, n, n, n, tile, n, given, out, n, slopes

    def build(context, builder, signature, arguments):
        pairs = zip(kinds, arguments, strict=True)
        values, places, *line, tile, column, given, out, to, slopes = pairs
        sums, tile = _zeros(builder), _address(context, builder, tile, column)
        inputs = _loaded(builder, _address(context, builder, given, to))
        number = _VECTOR.element
        add_up = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(number, (number, _VECTOR)),
            "llvm.vector.reduce.fadd.v16f32",
        )
        line = values, *line
        with _each_weight(context, builder, line, tile, places) as (place, value, read):
            products = builder.fmul(inputs[0], read[0], flags=_FLAGS)
            for x, vector in zip(inputs[1:], read[1:], strict=True):
                product = builder.fmul(x, vector, flags=_FLAGS)
                products = builder.fadd(products, product, flags=_FLAGS)
            for total, vector in zip(sums, read, strict=True):
                _add_product(builder, total, value, vector)
            slope = builder.call(add_up, (number(0.0), products), fastmath=_FLAGS)
            slot = _address(context, builder, slopes, (n, place))
            builder.store(builder.fadd(builder.load(slot), slope), slot)
        _stored(builder, sums, _address(context, builder, out, to))
        return context.get_dummy_value()

    return types.void(*kinds), build


@_part
def _multiply(row, factor):
    for b in range(_u(row.shape[0])):
        row[b] *= factor


@_part
def _fill(tile, samples, scale):
    """Write samples into a tile, times a factor of each feature, if there are some.

    Columns beyond the samples become zeros.
    """
    _transpose(samples, tile)
    tile[:, samples.shape[0] :] = 0
    for i in range(scale.shape[0]):
        _multiply(tile[i], scale[i])


@_compiled
def _sorted(values, places):
    """Return weights in the order of lines, so that no tile has to look for them."""
    found = np.empty(places.shape[0], np.float32)
    for k in prange(places.shape[0]):
        found[k] = values[places[k]]
    return found


@_compiled
def _tiles(x, scale):
    """Return all samples in tiles."""
    count, rows = (x.shape[0] + WIDTH - 1) // WIDTH, x.shape[1]
    tiles = np.empty((count, rows, WIDTH), np.float32)
    chunks = (rows + _TASKS - 1) // _TASKS
    for task in prange(count * chunks):
        t, low = task // chunks, task % chunks * _TASKS
        some, factors = x[t * WIDTH : (t + 1) * WIDTH], scale[low : low + _TASKS]
        high = min(rows, low + _TASKS)
        _fill(tiles[t, low:high], some[:, low:high], factors)
    return tiles


@_compiled
def multiply(x, values, scale, ends, inputs, places, blocks, groups, y):
    """Multiply samples by a matrix; a task is a block of outputs of a group of tiles.

    If all outputs are one block, a task has its own tile, which stays in the cache.

    Args:
        x: Samples, (samples, inputs).
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of output j are at `ends[j]:ends[j + 1]` in `inputs`.
        inputs: What each weight is multiplied with.
        places: Where in `values` it is.
        blocks: Outputs `blocks[i]:blocks[i + 1]` are a block.
        groups: How many groups of tiles there are.
        y: The result, (samples, outputs).
    """
    count, total = blocks.shape[0] - 1, (x.shape[0] + WIDTH - 1) // WIDTH
    each, own = (total + groups - 1) // groups, count == 1
    values = _sorted(values, places)
    tiles = _tiles(x[: 0 if own else x.shape[0]], scale[:0])
    for task in prange(groups * count):
        block, group = task % count, task // count
        tile = np.empty((x.shape[1] if own else 0, WIDTH), np.float32)
        out = np.empty((_LANES, WIDTH), np.float32)
        for t in range(group * each, min(total, (group + 1) * each)):
            some, to = x[t * WIDTH : (t + 1) * WIDTH], y[t * WIDTH : (t + 1) * WIDTH]
            if own:
                _fill(tile, some, scale[:0])
            flat, sums = (tile if own else tiles[t]).reshape(-1), out.reshape(-1)
            for low in range(blocks[block], blocks[block + 1], _LANES):
                high = min(blocks[block + 1], low + _LANES)
                for j in range(low, high):
                    k, end, at = ends[j], ends[j + 1], (j - low) * WIDTH
                    _sum(values, inputs, k, end, WIDTH, flat, 0, sums, at)
                    _multiply(out[j - low], scale[j])
                _transpose(out[: high - low, : to.shape[0]], to[:, low:high])


@_compiled
def multiply_slopes(
    x, dy, values, scale, ends, outputs, places, blocks, dx, parts, slopes
):
    """Compute the gradients of inputs and of kept weights from the same loads.

    Args:
        x: Samples, (samples, inputs).
        dy: Gradients of the outputs.
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of input i are at `ends[i]:ends[i + 1]` in `outputs`.
        outputs: What each weight adds to.
        places: Where in `values` it is.
        blocks: Inputs `blocks[i]:blocks[i + 1]` are a block; see `multiply`.
        dx: The gradients of inputs.
        parts: Memory for gradients of kept weights, a row for each group of tiles. That
            of `slopes` if there is one group.
        slopes: The gradients of kept weights.
    """
    count, total = blocks.shape[0] - 1, (x.shape[0] + WIDTH - 1) // WIDTH
    groups = parts.shape[0]
    each, own = (total + groups - 1) // groups, count == 1
    tiles = _tiles(dy[: 0 if own else dy.shape[0]], scale)
    for task in prange(groups * count):
        block, group = task % count, task // count
        first, last, part = blocks[block], blocks[block + 1], parts[group]
        for k in range(ends[first], ends[last]):
            part[places[k]] = 0
        tile = np.empty((dy.shape[1] if own else 0, WIDTH), np.float32)
        given = np.empty((_LANES, WIDTH), np.float32)
        out = np.empty((_LANES, WIDTH), np.float32)
        inputs, sums = given.reshape(-1), out.reshape(-1)
        for t in range(group * each, min(total, (group + 1) * each)):
            some, to = x[t * WIDTH : (t + 1) * WIDTH], dx[t * WIDTH : (t + 1) * WIDTH]
            if own:
                _fill(tile, dy[t * WIDTH : (t + 1) * WIDTH], scale)
            flat = (tile if own else tiles[t]).reshape(-1)
            for low in range(first, last, _LANES):
                high = min(last, low + _LANES)
                _fill(given[: high - low], some[:, low:high], scale[:0])
                for i in range(low, high):
                    k, end, at = ends[i], ends[i + 1], (i - low) * WIDTH
                    line = values, places, outputs, k, end, WIDTH
                    _sum_slopes(*line, flat, 0, inputs, sums, at, part)
                _transpose(out[: high - low, : to.shape[0]], to[:, low:high])
    if groups > 1:
        _add_up(parts, slopes)


@_compiled
def _add_up(parts, total):
    """Add vectors, in their order."""
    for k in prange(total.shape[0]):
        total[k] = parts[0, k]
        for group in range(1, parts.shape[0]):
            total[k] += parts[group, k]


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
    for image in range(min(each, images.shape[0] - first)):
        for i in range(rows):
            line = images[first + image, h + i * steps_down, w::steps_right]
            place = (image * down + row + i) * right + column
            _transpose(line[:columns], tile[:, place : place + columns])


@_part
def _write(tile, low, high, images, first, planes, phase):
    """Do the reverse of `_read`, for the channels from `low` to `high`."""
    each, down, right, _, _, steps_down, steps_right = planes
    (h, row, rows), (w, column, columns) = _region(images.shape, planes, phase)
    for image in range(min(each, images.shape[0] - first)):
        for i in range(rows):
            line = images[first + image, h + i * steps_down, w::steps_right, low:high]
            place = (image * down + row + i) * right + column
            lanes = tile[: high - low, place : place + columns]
            _transpose(lanes, line[:columns])


@_compiled
def convolve(x, values, scale, ends, starts, places, planes, outputs, width, reach, y):
    """Convolve images; a task is a tile of them, which stays in the cache.

    Args:
        x: Images, (samples, down, right, channels).
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of output j are at `ends[j]:ends[j + 1]` in `starts`.
        starts: Where in a tile what each weight is multiplied with begins.
        places: Where in `values` it is.
        planes: How images are in a tile; see `_read`.
        outputs: The same for `y`.
        width: Columns of a tile, a multiple of `WIDTH`.
        reach: How far a window looks, in columns.
        y: The result, images.
    """
    values = _sorted(values, places)
    each, live = planes[0], planes[0] * planes[1] * planes[2] - reach
    phases, channels, units = planes[5] * planes[6], x.shape[3], y.shape[3]
    tiles = (x.shape[0] + each - 1) // each
    some = (tiles + _TASKS - 1) // _TASKS
    for task in prange((tiles + some - 1) // some):
        # Zeros between images stay.
        tile = np.zeros(phases * channels * width + reach, np.float32)
        rows = tile[: phases * channels * width].reshape(phases * channels, width)
        out = np.empty((_LINE, width), np.float32)
        flat = out.reshape(-1)
        for t in range(task * some, min(tiles, (task + 1) * some)):
            for phase in range(phases):
                some_rows = rows[phase * channels : (phase + 1) * channels]
                _read(x, t * each, planes, phase, some_rows)
            for low in range(0, units, _LINE):
                high = min(units, low + _LINE)
                for j in range(low, high):
                    k, end, to = ends[j], ends[j + 1], (j - low) * width
                    for b in range(0, live, WIDTH):
                        _sum(values, starts, k, end, 1, tile, b, flat, to + b)
                    _multiply(out[j - low], scale[j])
                _write(out, low, high, y, t * each, outputs, 0)


@_compiled
def convolve_slopes(
    x,
    dy,
    values,
    scale,
    ends,
    starts,
    places,
    planes,
    outputs,
    width,
    reach,
    dx,
    parts,
    slopes,
):
    """Compute the gradients of images and of kept weights from the same loads.

    Args:
        x: Images, (samples, down, right, channels).
        dy: Gradients of the outputs.
        values: Kept weights.
        scale: Factor of each output.
        ends: The weights of input i are at `ends[i]:ends[i + 1]` in `starts`.
        starts: Where in a tile what each weight adds to begins.
        places: Where in `values` it is.
        planes: How images are in a tile; see `_read`.
        outputs: The same for `dy`.
        width: Columns of a tile, a multiple of `WIDTH`.
        reach: How far a window looks, in columns.
        dx: The gradients of images.
        parts: Memory for gradients of kept weights, a row for each group of tiles. That
            of `slopes` if there is one group.
        slopes: The gradients of kept weights.
    """
    each, phases = planes[0], planes[5] * planes[6]
    channels, filters = x.shape[3], dy.shape[3]
    tiles, groups = (x.shape[0] + each - 1) // each, parts.shape[0]
    some = (tiles + groups - 1) // groups
    for group in prange(groups):
        part = parts[group]
        part[:] = 0
        # Zeros between images stay, and those before the first.
        tile = np.zeros(reach + filters * width, np.float32)
        rows = tile[reach:].reshape(filters, width)
        given = np.zeros((phases * channels, width), np.float32)
        out = np.empty((_LINE, width), np.float32)
        sums = out.reshape(-1)
        for t in range(group * some, min(tiles, (group + 1) * some)):
            first = t * each
            if x.shape[0] - first < each:  # or the images before would count again
                rows[:] = 0
            if phases > 1 or planes[1] < x.shape[1] or planes[2] < x.shape[2]:
                dx[first : first + each] = 0  # pixels that no window sees
            _read(dy, first, outputs, 0, rows)
            for j in range(filters):
                _multiply(rows[j], scale[j])
            for phase in range(phases):
                before = phase * channels
                _read(x, first, planes, phase, given[before : before + channels])
                for low in range(0, channels, _LINE):
                    high = min(channels, low + _LINE)
                    inputs = given[before + low : before + high].reshape(-1)
                    for c in range(high - low):
                        k, end = ends[before + low + c], ends[before + low + c + 1]
                        for b in range(0, width, WIDTH):
                            line = values, places, starts, k, end, 1
                            to = c * width + b
                            _sum_slopes(*line, tile, reach + b, inputs, sums, to, part)
                    _write(out, low, high, dx, first, planes, phase)
    if groups > 1:
        _add_up(parts, slopes)


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
