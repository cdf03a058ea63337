"""What a decoding step on a GPU consists of, in Triton: norm, rotation, products with few rows, attention, all small.

No kernel knows a length from the host: where a row stands is read on the device, so one CUDA graph serves all steps.
"""

import triton
import triton.language as tl

TABLE = tl.constexpr(5)  # numbers of a row in the table of rows: see `fused.Rows`
SHARED = tl.constexpr(7)  # and of a group in the table of shared prompts


@triton.jit
def norm(x, weight, out, width, eps, BLOCK: tl.constexpr):
    """out = x / rms(x) * weight, a row at a time."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    numbers = tl.load(x + row * width + at, mask=at < width, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(numbers * numbers, 0) / width + eps)
    weights = tl.load(weight + at, mask=at < width, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (numbers * scale * weights).to(out.dtype.element_ty), mask=at < width)


@triton.jit
def turn(x, cos, sin, out, stride, heads, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Rotates heads of SIZE numbers, BLOCK of them at a time; the first half of `sin` is negative."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    at = tl.arange(0, SIZE)[None, :]
    here = head < heads
    straight = tl.load(x + row * stride + head * SIZE + at, mask=here, other=0.0).to(tl.float32)
    rolled = tl.load(x + row * stride + head * SIZE + (at + SIZE // 2) % SIZE, mask=here, other=0.0).to(tl.float32)
    c = tl.load(cos + row * SIZE + at).to(tl.float32)
    s = tl.load(sin + row * SIZE + at).to(tl.float32)
    turned = (straight * c + rolled * s).to(out.dtype.element_ty)
    tl.store(out + row * heads * SIZE + head * SIZE + at, turned, mask=here)


@triton.jit
def gate(both, out, inner, BLOCK: tl.constexpr):
    """out = silu(gate) up, where `both` (L, 2 inner) has one beside the other."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(both + row * 2 * inner + at, mask=at < inner, other=0.0).to(tl.float32)
    second = tl.load(both + row * 2 * inner + inner + at, mask=at < inner, other=0.0).to(tl.float32)
    gated = first / (1 + tl.exp(-first)) * second
    tl.store(out + row * inner + at, gated.to(out.dtype.element_ty), mask=at < inner)


@triton.jit
def product(
    x,
    weight,
    scale,
    add,
    add_stride,
    out,
    rows,
    num_out,
    size,
    SCALED: tl.constexpr,
    ADDS: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """out (rows, num_out) = x (rows, size) weight' * scale + add: N outputs at a time, all of the few rows at once."""
    row = tl.arange(0, M)
    column = tl.program_id(0) * N + tl.arange(0, N)
    at = tl.arange(0, K)
    there = weight + column[:, None].to(tl.int64) * size + at[None, :]
    here = x + row[:, None] * size + at[None, :]
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, size, K):
        inside = start + at < size
        a = tl.load(here + start, mask=(row[:, None] < rows) & inside[None, :], other=0.0)
        w = tl.load(there + start, mask=(column[:, None] < num_out) & inside[None, :], other=0.0)
        total = tl.dot(a, tl.trans(w.to(a.dtype)), total, input_precision=PRECISION)
    inside = column < num_out
    if SCALED:
        total *= tl.load(scale + column, mask=inside, other=0.0)[None, :]
    to = row[:, None] * num_out + column[None, :]
    mask = (row[:, None] < rows) & inside[None, :]
    if ADDS:
        total += tl.load(add + row[:, None] * add_stride + column[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out + to, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def narrow_rows(x, out, scale, width, BLOCK: tl.constexpr):
    """Every row of x in e4m3, and the number to multiply it with."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    numbers = tl.load(x + row * width + at, mask=at < width, other=0.0).to(tl.float32)
    most = tl.maximum(tl.max(tl.abs(numbers), 0), 1e-12) / 448.0
    tl.store(scale + row, most)
    tl.store(out + row * width + at, (numbers / most).to(out.dtype.element_ty), mask=at < width)


@triton.jit(do_not_specialize=["number"])
def keep(
    k, v, position, table, like, number, count, k_stride, v_stride, heads, SIZE: tl.constexpr, BLOCK: tl.constexpr
):
    """Writes new keys and values into the columns of their rows."""
    place = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    at = tl.arange(0, SIZE)[None, :]
    mine = table + (place // count) * TABLE
    layer, stride = tl.load(mine + 2) * number, tl.load(mine + 3)
    column = tl.load(position + place) - tl.load(mine + 4)
    to = layer + head * stride + column * SIZE + at
    for which in tl.static_range(2):
        address = tl.load(mine + which).to(tl.pointer_type(like.dtype.element_ty))
        if which == 0:
            new = tl.load(k + place * k_stride + head * SIZE + at, mask=head < heads, other=0.0).to(tl.float32)
        else:
            new = tl.load(v + place * v_stride + head * SIZE + at, mask=head < heads, other=0.0).to(tl.float32)
        if like.dtype.element_ty.primitive_bitwidth == 8:
            new = tl.minimum(tl.maximum(new, -448.0), 448.0)
        tl.store(address + to, new.to(like.dtype.element_ty), mask=head < heads)


@triton.jit
def _look(
    q, keys, values, lo, hi, last, scale, SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr
):
    """Softmax over columns lo to hi, of which query i sees those up to last[i]: (mean of values, log2 of the sum)."""
    at = tl.arange(0, SIZE)
    most = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    found = tl.zeros((M, SIZE), tl.float32)
    for start in range(lo, hi, N):
        column = start + tl.arange(0, N)
        inside = column < hi
        there = column[:, None].to(tl.int64) * SIZE + at[None, :]
        k = tl.load(tl.multiple_of(keys + there, (16, 16)), mask=inside[:, None], other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        seen = inside[None, :] & (column[None, :] <= last[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        chances = tl.exp2(scores - base[:, None])
        fade = tl.exp2(most - base)
        total = total * fade + tl.sum(chances, 1)
        v = tl.load(tl.multiple_of(values + there, (16, 16)), mask=inside[:, None], other=0.0).to(q.dtype)
        found = found * fade[:, None] + tl.dot(chances.to(q.dtype), v, input_precision=PRECISION)
        most = higher
    some = total > 0
    found = found / tl.where(some, total, 1.0)[:, None]
    return found, tl.where(some, most + tl.log2(tl.where(some, total, 1.0)), float("-inf"))


@triton.jit(do_not_specialize=["number"])
def attend_own(
    q, position, table, like, found, sums, number, count, stride, heads, scale,
    SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, SPLITS: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A row's `count` queries and a part of its own columns: the columns of a row are split among SPLITS programs."""
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    mine = table + row * TABLE
    offset = tl.load(mine + 2) * number + head * tl.load(mine + 3)
    kind = tl.pointer_type(like.dtype.element_ty)
    keys, values = tl.load(mine).to(kind) + offset, tl.load(mine + 1).to(kind) + offset
    query, at = tl.arange(0, M), tl.arange(0, SIZE)
    place = row * count + query
    there = query < count
    last = tl.load(position + place, mask=there, other=0) - tl.load(mine + 4)
    length = tl.max(tl.where(there, last, 0), 0) + 1
    share = tl.cdiv(tl.cdiv(length, SPLITS), N) * N
    lo = split * share
    hi = tl.minimum(lo + share, length)
    numbers = tl.load(q + place[:, None] * stride + head * SIZE + at[None, :], mask=there[:, None], other=0.0)
    mean, log = _look(numbers, keys, values, lo, hi, last, scale, SIZE, M, N, PRECISION)
    to = (place * heads + head) * PARTS + split
    tl.store(found + to[:, None] * SIZE + at[None, :], mean, mask=there[:, None])
    tl.store(sums + to, log, mask=there)


@triton.jit(do_not_specialize=["number"])
def attend_shared(
    q, table, like, found, sums, number, stride, heads, scale,
    SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, SPLITS: tl.constexpr, PARTS: tl.constexpr,
    OWN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All queries of a group and a part of the prompt that its rows share, M queries a program."""
    group, head, both = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    split = both % SPLITS
    mine = table + group * SHARED
    offset = tl.load(mine + 2) * number + head * tl.load(mine + 3)
    kind = tl.pointer_type(like.dtype.element_ty)
    keys, values = tl.load(mine).to(kind) + offset, tl.load(mine + 1).to(kind) + offset
    length, first, size = tl.load(mine + 4), tl.load(mine + 5), tl.load(mine + 6)
    query, at = (both // SPLITS) * M + tl.arange(0, M), tl.arange(0, SIZE)
    there = query < size
    place = first + query
    share = tl.cdiv(tl.cdiv(length, SPLITS), N) * N
    lo = split * share
    hi = tl.minimum(lo + share, length)
    numbers = tl.load(q + place[:, None] * stride + head * SIZE + at[None, :], mask=there[:, None], other=0.0)
    last = tl.zeros((M,), tl.int64) + length
    mean, log = _look(numbers, keys, values, lo, hi, last, scale, SIZE, M, N, PRECISION)
    to = (place * heads + head) * PARTS + OWN + split
    tl.store(found + to[:, None] * SIZE + at[None, :], mean, mask=there[:, None])
    tl.store(sums + to, log, mask=there)


@triton.jit
def merge(found, sums, out, heads, SIZE: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """One softmax of its parts: their means, weighted by their sums."""
    place, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at, part = tl.arange(0, SIZE), tl.arange(0, BLOCK)
    start = (place * heads + head) * PARTS
    logs = tl.load(sums + start + part, mask=part < PARTS, other=float("-inf"))
    share = tl.exp2(logs - tl.max(logs, 0))
    there = (start + part)[:, None] * SIZE + at[None, :]
    means = tl.load(found + there, mask=(part < PARTS)[:, None], other=0.0)
    mean = tl.sum(means * share[:, None], 0) / tl.sum(share, 0)
    tl.store(out + (place * heads + head) * SIZE + at, mean.to(out.dtype.element_ty))
