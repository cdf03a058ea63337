// Attention of a few positions to all that their row has seen, which lies in its slots and in a prompt that rows share.
#pragma once

#include "numbers.h"

#include <vector>

namespace {

struct Sequence {  // `count` positions of one row, which stand in its slots from column `column` on; as in native.py
    float *keys, *values;  // (layers of `stride`, heads, room, d)
    const float *shared_keys, *shared_values;  // (layers, heads, shared, d)
    int64_t stride, room, shared, column, count;
    int64_t *position, *sees;        // (count): where each is turned to, and how many columns it sees
};

// scale q . keys (c, d), for WIDE columns from `column` on; where there are fewer, the last one is taken again.
template <int D>
void score(float* scores, const float* q, const float* keys, int64_t column, int64_t last, float scale) {
    Vec dots[WIDE];
    UNROLL for (int i = 0; i < WIDE; i++) {
        const float* key = keys + std::min(column + i, last) * D;
        dots[i] = load(q) * load(key);
        UNROLL for (int d = WIDE; d < D; d += WIDE) dots[i] += load(q + d) * load(key + d);
    }
    store(scores + column, sums(dots) * scale);
}

// Columns that are needed soon, while scores of several positions are at work.
template <int D>
void fetch(const float* rows) {
    UNROLL for (int i = 0; i < WIDE * D; i += WIDE) __builtin_prefetch(rows + i, 0, 2);
}

// Of one head: each position sees what is shared, and the first columns of its row.
template <int D>
void attend(float* to, int64_t to_stride, const float* q, int64_t q_stride, const Sequence& s, int64_t layer,
            int64_t head, int64_t heads) {
    const int64_t most = s.column + s.count, pad = WIDE, all = s.shared + pad + most + pad;
    const float* keys = s.keys + layer * s.stride + head * s.room * D;
    const float* values = s.values + layer * s.stride + head * s.room * D;
    const float* shared_keys = s.shared_keys + (layer * heads + head) * s.shared * D;
    const float* shared_values = s.shared_values + (layer * heads + head) * s.shared * D;
    const float scale = 1 / std::sqrt(static_cast<float>(D));
    static thread_local std::vector<float> room;
    room.resize(s.count * (all + 1));
    float* over = &room[s.count * all];
    for (int64_t column = 0; column < s.shared; column += WIDE) {
        if (s.count > 1) fetch<D>(shared_values + column * D);
        for (int64_t i = 0; i < s.count; i++)
            score<D>(&room[i * all], q + i * q_stride, shared_keys, column, s.shared - 1, scale);
    }
    for (int64_t column = 0; column < most; column += WIDE) {
        if (s.count > 1) fetch<D>(values + column * D);
        for (int64_t i = 0; i < s.count; i++)
            if (column < s.sees[i])
                score<D>(&room[i * all + s.shared], q + i * q_stride, keys, column, most - 1, scale);
    }
    for (int64_t i = 0; i < s.count; i++) {
        float* chances = &room[i * all];
        const int64_t seen = s.shared + s.sees[i];
        std::fill(chances + seen, chances + seen + WIDE, -INFINITY);
        Vec total{};
        const float largest = largest_of(chances, (seen + WIDE - 1) / WIDE * WIDE);
        for (int64_t column = 0; column < seen; column += WIDE) {
            const Vec chance = exponential(load(chances + column) - largest);
            store(chances + column, chance);
            total += chance;
        }
        std::fill(chances + seen, chances + all, 0.0f);  // others of its tile may see more
        over[i] = 1 / sum(total);
    }
    in_tiles(s.count, [&]<int R>(int64_t i) {
        constexpr int V = std::min(D / WIDE, R <= ROWS / 2 ? 4 : 2);
        const int64_t seen = *std::max_element(s.sees + i, s.sees + i + R);
        for (int64_t d = 0; d < D; d += V * WIDE) {
            const float* chances = &room[i * all];
            float* here = to + i * to_stride + d;
            for (int r = 0; r < R; r++) std::fill_n(here + r * to_stride, V * WIDE, 0.0f);
            add_product<R, V, 0>(here, to_stride, chances, all, shared_values + d, D, s.shared);
            add_product<R, V, 0>(here, to_stride, chances + s.shared, all, values + d, D, seen);
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V * WIDE; v += WIDE)
                    store(here + r * to_stride + v, load(here + r * to_stride + v) * over[i + r]);
        }
    });
}

void turn(float* head, const float* cos, const float* sin, int64_t size) {
    for (int64_t i = 0, half = size / 2; i < half; i++) {
        const float low = head[i], high = head[i + half];
        head[i] = low * cos[i] + high * sin[i];
        head[i + half] = high * cos[i + half] + low * sin[i + half];
    }
}

}  // namespace
