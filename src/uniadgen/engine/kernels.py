"""All layers of a decoding step in one compiled function, for float32 on a CPU that has no C++ compiler.

Few rows by many weights is a matter of reading weights, row after row of them as they lie in memory.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import njit

ZERO, ONE = np.float32(0), np.float32(1)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled when it is first called; where a folder can be written for it, once on a machine."""
    compile_it = partial(njit, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
    try:
        return compile_it(cache=True)(function)
    except RuntimeError:  # numba finds no folder to keep it in
        return compile_it()(function)


@compiled
def _add_product(y, x, w):
    """y (n, out) += x (n, k) @ w (k, out), k a multiple of 4."""
    for k in range(0, w.shape[0], 4):
        first, second, third, fourth = w[k], w[k + 1], w[k + 2], w[k + 3]
        for row in range(y.shape[0]):
            to, a, b, c, d = y[row], x[row, k], x[row, k + 1], x[row, k + 2], x[row, k + 3]
            for i in range(w.shape[1]):
                to[i] += a * first[i] + b * second[i] + c * third[i] + d * fourth[i]


@compiled
def _add_product_of(y, x, w):
    """y (n, out) += x (n, k) @ w (out, k).T"""
    for o in range(w.shape[0]):
        weights = w[o]
        for row in range(y.shape[0]):
            y[row, o] += _dot(x[row], weights)


@compiled
def _dot(a, b):
    total = ZERO
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@compiled
def _norm(to, x, weight, eps):
    for row in range(x.shape[0]):
        scale = ONE / np.float32(math.sqrt(_dot(x[row], x[row]) / np.float32(x.shape[1]) + eps))
        for i in range(x.shape[1]):
            to[row, i] = x[row, i] * scale * weight[i]


@compiled
def _turn(heads, cos, sin):
    """Rotates the heads (h, d) of one row in place; the first half of `sin` is negative."""
    half = heads.shape[1] // 2
    for head in range(heads.shape[0]):
        for i in range(half):
            low, high = heads[head, i], heads[head, i + half]
            heads[head, i] = low * cos[i] + high * sin[i]
            heads[head, i + half] = high * cos[i + half] + low * sin[i + half]


@compiled
def _scores(to, q, keys):
    for i in range(keys.shape[0]):
        to[i] = _dot(q, keys[i])


@compiled
def _add_values(to, chances, values):
    whole = values.shape[0] // 4 * 4
    for i in range(0, whole, 4):
        first, second, third, fourth = values[i], values[i + 1], values[i + 2], values[i + 3]
        a, b, c, d = chances[i], chances[i + 1], chances[i + 2], chances[i + 3]
        for j in range(to.shape[0]):
            to[j] += a * first[j] + b * second[j] + c * third[j] + d * fourth[j]
    for i in range(whole, values.shape[0]):
        for j in range(to.shape[0]):
            to[j] += chances[i] * values[i, j]


@compiled
def _softmax(scores, scale):
    """In place."""
    most = scores.max()
    total = ZERO
    for i in range(scores.shape[0]):
        chance = np.float32(math.exp((scores[i] - most) * scale))
        scores[i] = chance
        total += chance
    for i in range(scores.shape[0]):
        scores[i] /= total


@compiled
def _attend(to, q, keys, values, shared_keys, shared_values, scores):
    """What heads (h, d) find in the prompt that their row shares, (h, P, d), and in its own columns, (h, room, d)."""
    scale, shared = np.float32(1 / math.sqrt(q.shape[1])), shared_keys.shape[1]
    filled = scores.shape[0] - shared
    to[:] = ZERO
    for head in range(q.shape[0]):
        _scores(scores[:shared], q[head], shared_keys[head])
        _scores(scores[shared:], q[head], keys[head, :filled])
        _softmax(scores, scale)
        _add_values(to[head], scores[:shared], shared_values[head])
        _add_values(to[head], scores[shared:], values[head, :filled])


@compiled
def forward(x, rows, columns, seen, position, control, angles, sites, parameters, eps, slots):
    """Takes positions `x` (n, D) of one group through all layers, in place.

    `rows` says in which row of the group's slots each stands, `columns` in which column; it sees what is shared and the
    columns before `seen`; `position` is its place in `angles`.
    """
    cos, sin = angles
    keys, values, shared_keys, shared_values = slots
    n, width = x.shape
    heads, size, inner = keys.shape[2], keys.shape[4], parameters[0][4].shape[1] // 2
    normed, found = np.empty((n, width), np.float32), np.empty((n, heads, size), np.float32)
    qkv, gate_up = np.empty((n, 3 * width), np.float32), np.empty((n, 2 * inner), np.float32)
    gated = np.empty((n, inner), np.float32)
    scores = np.empty(shared_keys.shape[2] + seen.max(), np.float32)
    for number in range(len(parameters)):
        norm, joined, out, second_norm, wide, down = parameters[number]
        if sites[number] >= 0:
            x += control[:, sites[number] * width : (sites[number] + 1) * width]
        _norm(normed, x, norm, eps)
        qkv[:] = ZERO
        _add_product(qkv, normed, joined)
        split = qkv.reshape(n, 3 * heads, size)
        for i in range(n):
            own = split[i]
            _turn(own[: 2 * heads], cos[position[i]], sin[position[i]])
            keys[number, rows[i], :, columns[i]] = own[heads : 2 * heads]
            values[number, rows[i], :, columns[i]] = own[2 * heads :]
        for i in range(n):
            here, there = keys[number, rows[i]], values[number, rows[i]]
            room = scores[: shared_keys.shape[2] + seen[i]]
            _attend(found[i], split[i, :heads], here, there, shared_keys[number], shared_values[number], room)
        _add_product_of(x, found.reshape(n, width), out)
        _norm(normed, x, second_norm, eps)
        gate_up[:] = ZERO
        _add_product(gate_up, normed, wide)
        for i in range(n):
            for j in range(inner):
                gate = gate_up[i, j]
                gated[i, j] = gate / (ONE + np.float32(math.exp(-gate))) * gate_up[i, inner + j]
        _add_product_of(x, gated, down)
