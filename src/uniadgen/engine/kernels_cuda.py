"""What a decoding step on a GPU consists of, in Triton: products with few rows, attention, and what stands between.

No kernel knows a length from the host: where a row stands is read on the device, so one CUDA graph serves all steps.
"""

import triton  # pyright: ignore[reportMissingImports] - where there is a GPU
import triton.language as tl  # pyright: ignore[reportMissingImports]

TABLE = tl.constexpr(6)  # numbers of a row in the table of rows: see `fused.FusedAttention.place`
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
def _columns(num_out, N: tl.constexpr, GATED: tl.constexpr):
    """Rows of the weight that a program takes: N of them, or, of gates and what they gate, N / 2 pairs in turn."""
    at = tl.arange(0, N)
    if GATED:
        column = tl.program_id(0) * (N // 2) + at // 2
        rows, there = column + (at % 2) * num_out, column < num_out
    else:
        rows = tl.program_id(0) * N + at
        there = rows < num_out
    return rows, there


@triton.jit
def _write(
    total, column, inside, row, scale, add, add_stride, out, rows, num_out,
    SCALED: tl.constexpr, ADDS: tl.constexpr, GATED: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """What has been added up, scaled, gated, with something added to it."""
    if SCALED:
        total *= tl.load(scale + column, mask=inside, other=0.0)[None, :]
    if GATED:
        first, second = tl.split(tl.reshape(total, (M, N // 2, 2)))
        total = first / (1 + tl.exp(-first)) * second
        to = tl.program_id(0) * (N // 2) + tl.arange(0, N // 2)
        mask = (row[:, None] < rows) & (to < num_out)[None, :]
    else:
        to = column
        mask = (row[:, None] < rows) & inside[None, :]
    if ADDS:
        total += tl.load(add + row[:, None] * add_stride + to[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * num_out + to[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def product(
    x, norm, weight, scale, add, out, parts, arrived, rows, num_out, size, add_stride, eps,
    NORM: tl.constexpr, GATED: tl.constexpr, SCALED: tl.constexpr, ADDS: tl.constexpr, PRECISION: tl.constexpr,
    SPLITS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """out (rows, num_out) = x (rows, size) weight' * scale + add, N rows of the weight at a time, all of x at once.

    x is first divided by its root mean square and multiplied with `norm`. With SPLITS a program takes a part of the
    inputs only, and the last one to arrive adds up what all have written, in their order.
    """
    row, at = tl.arange(0, M), tl.arange(0, K)
    column, inside = _columns(num_out, N, GATED)
    split = tl.program_id(1)
    share = tl.cdiv(tl.cdiv(size, SPLITS), K) * K
    lo = split * share
    hi = tl.minimum(lo + share, size)
    there = weight + column[:, None].to(tl.int64) * size + at[None, :]
    here = x + row[:, None] * size + at[None, :]
    total = tl.zeros((M, N), tl.float32)
    squares = tl.zeros((M,), tl.float32)
    for start in range(lo, hi, K):
        left = start + at < hi
        a = tl.load(here + start, mask=(row[:, None] < rows) & left[None, :], other=0.0)
        w = tl.load(there + start, mask=inside[:, None] & left[None, :], other=0.0)
        if NORM:
            wide = a.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            a = (wide * tl.load(norm + start + at, mask=left, other=0.0).to(tl.float32)[None, :]).to(a.dtype)
        total = tl.dot(a, tl.trans(w.to(a.dtype)), total, input_precision=PRECISION)
    if NORM:
        total *= tl.rsqrt(squares / size + eps)[:, None]
    if SPLITS == 1:
        _write(total, column, inside, row, scale, add, add_stride, out, rows, num_out, SCALED, ADDS, GATED, M, N)
    else:
        to = parts + row[:, None] * num_out + column[None, :]
        mask = (row[:, None] < rows) & inside[None, :]
        tl.store(to + split * M * num_out, total, mask=mask)
        tl.debug_barrier()
        if tl.atomic_add(arrived + tl.program_id(0), 1) == SPLITS - 1:
            total = tl.zeros((M, N), tl.float32)
            for number in range(SPLITS):
                total += tl.load(to + number * M * num_out, mask=mask, other=0.0, cache_modifier=".cg")
            _write(total, column, inside, row, scale, add, add_stride, out, rows, num_out, SCALED, ADDS, GATED, M, N)
            tl.store(arrived + tl.program_id(0), 0)


@triton.jit(do_not_specialize=["rows"])
def product_of_two(
    x, norm, weight, scale, add, out, rows, num_out, size, add_stride, eps,
    NORM: tl.constexpr, GATED: tl.constexpr, SCALED: tl.constexpr, ADDS: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """As `product`, of one or two rows: without tensor cores, whose 16 rows would be empty, while weights stream by."""
    at = tl.arange(0, K)
    column, inside = _columns(num_out, N, GATED)
    there = weight + column[:, None].to(tl.int64) * size + at[None, :]
    w = tl.load(there, mask=inside[:, None] & (at < size)[None, :], other=0.0)
    first, second = tl.zeros((N, K), tl.float32), tl.zeros((N, K), tl.float32)
    square, other = tl.zeros((K,), tl.float32), tl.zeros((K,), tl.float32)
    for start in range(0, size, K):
        ahead = start + K + at < size
        following = tl.load(there + start + K, mask=inside[:, None] & ahead[None, :], other=0.0)
        left = start + at < size
        a = tl.load(x + start + at, mask=left, other=0.0).to(tl.float32)
        b = tl.load(x + size + start + at, mask=left & (rows > 1), other=0.0).to(tl.float32)
        if NORM:
            square += a * a
            other += b * b
            weights = tl.load(norm + start + at, mask=left, other=0.0).to(tl.float32)
            a *= weights
            b *= weights
        wide = w.to(tl.float32)
        first += wide * a[None, :]
        second += wide * b[None, :]
        w = following
    one, two = tl.sum(first, 1), tl.sum(second, 1)
    if NORM:
        one *= tl.rsqrt(tl.sum(square, 0) / size + eps)
        two *= tl.rsqrt(tl.sum(other, 0) / size + eps)
    total = tl.trans(tl.join(one, two))
    row = tl.arange(0, 2)
    _write(total, column, inside, row, scale, add, add_stride, out, rows, num_out, SCALED, ADDS, GATED, 2, N)


@triton.jit
def narrow_rows(x, out, scale, width, BLOCK: tl.constexpr):
    """Every row of x in e4m3, and the number to multiply it with."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    numbers = tl.load(x + row * width + at, mask=at < width, other=0.0).to(tl.float32)
    most = tl.maximum(tl.max(tl.abs(numbers), 0), 1e-12) / 448.0
    tl.store(scale + row, most)
    tl.store(out + row * width + at, (numbers / most).to(out.dtype.element_ty), mask=at < width)


@triton.jit
def _turned(heads, cos, sin, place, stride, position, there, SIZE: tl.constexpr):
    """One head of some places, rotated to where they stand; the first half of `sin` is negative."""
    at = tl.arange(0, SIZE)
    here = heads + place[:, None] * stride
    straight = tl.load(here + at[None, :], mask=there[:, None], other=0.0).to(tl.float32)
    rolled = tl.load(here + ((at + SIZE // 2) % SIZE)[None, :], mask=there[:, None], other=0.0).to(tl.float32)
    angle = position[:, None] * SIZE + at[None, :]
    c = tl.load(cos + angle, mask=there[:, None], other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=there[:, None], other=0.0).to(tl.float32)
    return (straight * c + rolled * s).to(heads.dtype.element_ty)


@triton.jit
def _kept(numbers, like):
    """As the cache holds them: what is too large for e4m3 becomes its largest."""
    if like.dtype.element_ty.primitive_bitwidth == 8:
        numbers = tl.minimum(tl.maximum(numbers.to(tl.float32), -448.0), 448.0)
    return numbers.to(like.dtype.element_ty)


@triton.jit
def _look(
    q, keys, values, lo, hi, end, scale, SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr
):
    """Softmax over columns lo to hi, of which query i sees those before end[i]: (mean of values, log2 of the sum)."""
    at = tl.arange(0, SIZE)
    if (keys.dtype.element_ty.primitive_bitwidth == 8) & (q.dtype.primitive_bitwidth == 16):
        q = q.to(tl.float16)  # to which one instruction widens e4m3; to bfloat16 there are several
    most = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    found = tl.zeros((M, SIZE), tl.float32)
    for start in range(lo, hi, N):
        column = start + tl.arange(0, N)
        inside = column < hi
        there = column[:, None].to(tl.int64) * SIZE + at[None, :]
        k = tl.load(tl.multiple_of(keys + there, (16, 16)), mask=inside[:, None], other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        seen = inside[None, :] & (column[None, :] < end[:, None])
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


@triton.jit
def _merge(
    found, sums, out, row, head, heads, count, live, splits, parts,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """One softmax of the parts of a row's queries: `live` ones of its own columns, and those of a shared prompt."""
    part, at = tl.arange(0, BLOCK), tl.arange(0, SIZE)
    for first in range(0, count, TOGETHER):
        query = first + tl.arange(0, TOGETHER)
        there = query < count
        place = (row * count + query) * heads + head
        known = there[:, None] & ((part < live) | ((part >= splits) & (part < parts)))[None, :]
        which = place[:, None] * parts + part[None, :]
        logs = tl.load(sums + which, mask=known, other=float("-inf"), cache_modifier=".cg")
        where = found + which[:, :, None] * SIZE + at[None, None, :]
        means = tl.load(where, mask=known[:, :, None], other=0.0, cache_modifier=".cg")
        most = tl.max(logs, 1)
        some = most > float("-inf")
        chances = tl.exp2(logs - tl.where(some, most, 0.0)[:, None])
        total = tl.where(some, tl.sum(chances, 1), 1.0)
        mean = tl.sum(means * chances[:, :, None], 1) / total[:, None]
        to = out + place[:, None] * SIZE + at[None, :]
        tl.store(to, mean.to(out.dtype.element_ty), mask=there[:, None])


@triton.jit(do_not_specialize=["number", "count", "splits", "parts"])
def attend_own(
    qkv, cos, sin, position, columns, seen, table, like, found, sums, arrived, out,
    number, count, heads, splits, parts, scale,
    SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A row's `count` queries and a part of its own columns, among which may be their own: those are written first.

    A program takes as many columns as the table says; one that would begin behind the row's last has nothing to do. The
    last one to arrive makes one softmax of all parts, also of those that come from a shared prompt.
    """
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    mine, stride = table + row * TABLE, 3 * heads * SIZE
    offset = tl.load(mine + 2) * number + head * tl.load(mine + 3)
    kind = tl.pointer_type(like.dtype.element_ty)
    keys, values = tl.load(mine).to(kind) + offset, tl.load(mine + 1).to(kind) + offset
    share = tl.load(mine + 5).to(tl.int32)
    query, at = tl.arange(0, M), tl.arange(0, SIZE)
    place = row * count + query
    there = query < count
    stands, skipped = tl.load(position + place, mask=there, other=0), tl.load(mine + 4)
    own = tl.load(columns + place, mask=there, other=0) - skipped
    end = tl.load(seen + place, mask=there, other=0) - skipped
    length = tl.maximum(tl.max(tl.where(there, end, 1), 0), 1).to(tl.int32)  # of idle rows, too
    lo = split * share
    if lo >= length:
        return
    hi = tl.minimum(lo + share, length)
    q = _turned(qkv + head * SIZE, cos, sin, place, stride, stands, there, SIZE)

    new = there & (own >= lo) & (own < hi)
    if tl.max(new.to(tl.int32), 0) > 0:
        column = own[:, None] * SIZE + at[None, :]
        k = _turned(qkv + (heads + head) * SIZE, cos, sin, place, stride, stands, new, SIZE)
        v = qkv + (2 * heads + head) * SIZE + place[:, None] * stride + at[None, :]
        tl.store(keys + column, _kept(k, like), mask=new[:, None])
        tl.store(values + column, _kept(tl.load(v, mask=new[:, None], other=0.0), like), mask=new[:, None])
        tl.debug_barrier()  # what this program has written it now reads

    mean, log = _look(q, keys, values, lo, hi, end, scale, SIZE, M, N, PRECISION)
    if BLOCK == 1:
        to = out + (place * heads + head)[:, None] * SIZE + at[None, :]
        tl.store(to, mean.to(out.dtype.element_ty), mask=there[:, None])
    else:
        to, live = (place * heads + head) * parts + split, tl.cdiv(length, share)
        tl.store(found + to[:, None] * SIZE + at[None, :], mean, mask=there[:, None])
        tl.store(sums + to, log, mask=there)
        tl.debug_barrier()
        if tl.atomic_add(arrived + row * heads + head, 1) == live - 1:
            _merge(found, sums, out, row, head, heads, count, live, splits, parts, SIZE, BLOCK, TOGETHER)
            tl.store(arrived + row * heads + head, 0)


@triton.jit(do_not_specialize=["number", "splits", "own", "parts"])
def attend_shared(
    qkv, cos, sin, position, table, like, found, sums, number, heads, splits, own, parts, scale,
    SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All queries of a group and a part of the prompt that its rows share, M queries a program.

    More programs may be started than there are queries, and for more groups than there are.
    """
    group, head, both = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    split = both % splits
    mine = table + group * SHARED
    offset = tl.load(mine + 2) * number + head * tl.load(mine + 3)
    kind = tl.pointer_type(like.dtype.element_ty)
    keys, values = tl.load(mine).to(kind) + offset, tl.load(mine + 1).to(kind) + offset
    length, first, size = tl.load(mine + 4), tl.load(mine + 5), tl.load(mine + 6)
    if (both // splits) * M >= size:
        return
    query, at = (both // splits) * M + tl.arange(0, M), tl.arange(0, SIZE)
    there = query < size
    place = first + query
    share = tl.cdiv(tl.cdiv(length, splits), N) * N
    lo = split * share
    hi = tl.minimum(lo + share, length)
    stands = tl.load(position + place, mask=there, other=0)
    q = _turned(qkv + head * SIZE, cos, sin, place, 3 * heads * SIZE, stands, there, SIZE)
    end = tl.zeros((M,), tl.int64) + length
    mean, log = _look(q, keys, values, lo, hi, end, scale, SIZE, M, N, PRECISION)
    to = (place * heads + head) * parts + own + split
    tl.store(found + to[:, None] * SIZE + at[None, :], mean, mask=there[:, None])
    tl.store(sums + to, log, mask=there)
