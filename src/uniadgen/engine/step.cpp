// All layers of the decoder for some positions of some rows, on a CPU. `native.py` says how it is compiled and called.
//
// Few positions by many weights is a matter of reading weights: each is read once, for all positions. Threads share the
// columns of a product, and whoever is free takes the next ones: nobody waits for a thread that the system has put
// aside. A column is summed in the same order however many threads and positions there are, so neither changes a number.

#include "crew.h"
#include "numbers.h"

#include <cstring>
#include <vector>

namespace {

// As the structures of native.py.
struct Matrix {
    const void* packed;    // (columns / 32, depth, 32), in int8 (columns / 32, depth / 4, 32, 4)
    const float* scale;    // of every column, in int8
    const int32_t* sums;   // of every column, in int8
    int64_t depth, columns, bits;
};
struct Layer {
    const float *norm, *second_norm;
    Matrix qkv, out, wide, down;  // queries, keys and values head by head; gates and the rest in turns of 16
    int64_t site, panel;          // panel: columns of one head in `qkv`
};
struct Decoder {
    const Layer* layers;
    const float* norm;
    int64_t count, width, heads, inner;
    double eps;
};
struct Sequence {  // `count` positions of one row from `position` on, which stands in column `column` of its slots
    float *keys, *values;  // (layers of `stride`, heads, room, d)
    const float *shared_keys, *shared_values;  // (layers, heads, shared, d)
    int64_t stride, room, shared, column, position, count;
};
struct Input {  // of a product: n positions, as numbers or, in int8, as steps of a scale of their own above -128
    const float* x;
    int64_t stride;
    const uint8_t* steps;
    const float* scale;
};

// products

template <int R, class Weight>
void tile(float (*y)[BLOCK], const Matrix& m, Input in, int64_t block) {
    const Weight* w = static_cast<const Weight*>(m.packed) + block * m.depth * BLOCK;
    Vec low[R] = {}, high[R] = {};
    for (int64_t k = 0; k < m.depth; k++, w += BLOCK) {
        const Vec first = load(w), second = load(w + WIDE);
        UNROLL for (int r = 0; r < R; r++) {
            const float x = in.x[r * in.stride + k];
            low[r] += first * x;
            high[r] += second * x;
        }
    }
    UNROLL for (int r = 0; r < R; r++) store(y[r], low[r]), store(y[r] + WIDE, high[r]);
}

#ifdef __AVX512VNNI__
template <int R>
void tile_int8(float (*y)[BLOCK], const Matrix& m, Input in, int64_t block) {
    const int8_t* w = static_cast<const int8_t*>(m.packed) + block * m.depth * BLOCK;
    __m512i low[R] = {}, high[R] = {};
    for (int64_t k = 0; k < m.depth; k += 4, w += 4 * BLOCK) {
        const __m512i first = _mm512_loadu_si512(w), second = _mm512_loadu_si512(w + 2 * BLOCK);
        UNROLL for (int r = 0; r < R; r++) {
            int32_t four;
            std::memcpy(&four, in.steps + r * in.stride + k, 4);
            low[r] = _mm512_dpbusd_epi32(low[r], _mm512_set1_epi32(four), first);
            high[r] = _mm512_dpbusd_epi32(high[r], _mm512_set1_epi32(four), second);
        }
    }
    const Ints* all = reinterpret_cast<const Ints*>(m.sums + block * BLOCK);
    UNROLL for (int r = 0; r < R; r++)
        for (int half = 0; half < 2; half++) {
            const Ints total = (Ints)(half ? high[r] : low[r]) - 128 * all[half];
            const Vec scale = load(m.scale + block * BLOCK + half * WIDE) * in.scale[r];
            store(y[r] + half * WIDE, __builtin_convertvector(total, Vec) * scale);
        }
}
#endif

template <int R>
void rows_by_block(float (*y)[BLOCK], const Matrix& m, Input in, int64_t block) {
    if (m.bits == 32) return tile<R, float>(y, m, in, block);
    if (m.bits == 16) return tile<R, uint16_t>(y, m, in, block);
#ifdef __AVX512VNNI__
    tile_int8<R>(y, m, in, block);
#endif
}

// Gives `use` what comes out of some blocks of columns, a few positions at a time: (first position, how many, block, y).
template <class Use>
void product(const Matrix& m, Input in, int64_t n, int64_t from, int64_t to, Use use) {
    alignas(64) float y[ROWS][BLOCK];
    for (int64_t block = from; block < to; block++)
        for (int64_t row = 0, some; row < n; row += some) {
            const Input here{in.x + row * in.stride, in.stride, in.steps + row * in.stride, in.scale + row};
            some = n - row >= ROWS ? ROWS : n - row >= 4 ? 4 : n - row >= 2 ? 2 : 1;
            if (some == ROWS) rows_by_block<ROWS>(y, m, here, block);
            else if (some == 4) rows_by_block<4>(y, m, here, block);
            else if (some == 2) rows_by_block<2>(y, m, here, block);
            else rows_by_block<1>(y, m, here, block);
            use(row, some, block, y);
        }
}

// What a product reads: in int8, every position in steps of its largest number / 127.
class Reader {
   public:
    Input read(const Matrix& m, const float* x, int64_t n) {
        if (m.bits != 8) return {x, m.depth, nullptr, nullptr};
        steps.resize(n * m.depth), scale.resize(n);
        for (int64_t row = 0; row < n; row++) {
            const float* from = x + row * m.depth;
            float most = 1e-30f;
            for (int64_t i = 0; i < m.depth; i++) most = std::max(most, std::fabs(from[i]));
            scale[row] = most / 127;
            const float inverse = 127 / most;
            for (int64_t i = 0; i < m.depth; i++)
                steps[row * m.depth + i] = static_cast<uint8_t>(from[i] * inverse + 128.5f);
        }
        return {x, m.depth, steps.data(), scale.data()};
    }

   private:
    std::vector<uint8_t> steps;
    std::vector<float> scale;
};

// attention

// scale q . keys (c, d), for 16 columns from `column` on; where there are fewer, the last one is taken again.
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

template <int D>
void add_values(Vec* found, const float* chances, const float* values, int64_t count) {
    for (int64_t column = 0; column < count; column++)
        UNROLL for (int d = 0; d < D / WIDE; d++) found[d] += load(values + column * D + d * WIDE) * chances[column];
}

// Of one head: each position sees what is shared, and the columns of its row up to its own.
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
    room.resize(s.count * all);
    for (int64_t column = 0; column < s.shared; column += WIDE)
        for (int64_t i = 0; i < s.count; i++)
            score<D>(&room[i * all], q + i * q_stride, shared_keys, column, s.shared - 1, scale);
    for (int64_t column = 0; column < most; column += WIDE)
        for (int64_t i = std::max<int64_t>(0, column - s.column); i < s.count; i++)
            score<D>(&room[i * all + s.shared], q + i * q_stride, keys, column, most - 1, scale);
    for (int64_t i = 0; i < s.count; i++) {
        float* chances = &room[i * all];
        const int64_t own = s.column + i + 1, seen = s.shared + own;
        std::fill(chances + seen, chances + seen + WIDE, -INFINITY);
        Vec total{}, found[D / WIDE] = {};
        const float largest = largest_of(chances, (seen + WIDE - 1) / WIDE * WIDE);
        for (int64_t column = 0; column < seen; column += WIDE) {
            const Vec chance = exponential(load(chances + column) - largest);
            store(chances + column, chance);
            total += chance;
        }
        add_values<D>(found, chances, shared_values, s.shared);
        add_values<D>(found, chances + s.shared, values, own);
        const float over = 1 / sum(total);
        for (int d = 0; d < D / WIDE; d++) store(to + i * to_stride + d * WIDE, found[d] * over);
    }
}

void turn(float* head, const float* cos, const float* sin, int64_t size) {
    for (int64_t i = 0, half = size / 2; i < half; i++) {
        const float low = head[i], high = head[i + half];
        head[i] = low * cos[i] + high * sin[i];
        head[i + half] = high * cos[i + half] + low * sin[i + half];
    }
}

template <int D>
class Forward {
   public:
    Forward(const Decoder& decoder, const Sequence* sequences, int64_t count, float* x, const float* cos,
            const float* sin, int threads)
        : it(decoder), sequences(sequences), count(count), x(x), cos(cos), sin(sin), hands(threads) {
        for (int64_t i = 0; i < count; i++) n += sequences[i].count;
        normed.resize(n * it.width), found.resize(n * it.width), gated.resize(n * it.inner);
        panels.resize(it.heads * n * it.layers[0].panel);
    }

    // `reading`: only keys and values are wanted.
    void run(const float* control, int64_t control_width, bool reading) {
        for (int64_t number = 0; number < it.count; number++) {
            const Layer& layer = it.layers[number];
            if (control && layer.site >= 0)
                for (int64_t i = 0; i < n; i++)
                    for (int64_t j = 0; j < it.width; j += WIDE)
                        store(x + i * it.width + j, load(x + i * it.width + j) +
                                                        load(control + i * control_width + layer.site * it.width + j));
            const bool last = reading && number + 1 == it.count;
            const Input in = normalise(layer.norm, layer.qkv);
            hands.each(it.heads, [&](int64_t from, int64_t to) {
                for (int64_t head = from; head < to; head++) look(layer, in, number, head, last);
            });
            if (last) return;
            add(layer.out, found.data());
            const Input wide = normalise(layer.second_norm, layer.wide);
            hands.each(it.inner / WIDE, [&](int64_t from, int64_t to) {
                product(layer.wide, wide, n, from, to, [&](int64_t row, int64_t some, int64_t block, float(*y)[BLOCK]) {
                    for (int64_t i = 0; i < some; i++) {
                        const Vec gate = load(y[i]), rest = load(y[i] + WIDE);
                        store(&gated[(row + i) * it.inner + block * WIDE],
                              gate / (1.0f + exponential(-gate)) * rest);
                    }
                });
            });
            add(layer.down, gated.data());
        }
        for (int64_t i = 0; i < n; i++) norm(x + i * it.width, x + i * it.width, it.norm, it.width, it.eps);
    }

   private:
    Input normalise(const float* weight, const Matrix& next) {
        for (int64_t i = 0; i < n; i++) norm(&normed[i * it.width], x + i * it.width, weight, it.width, it.eps);
        return reader.read(next, normed.data(), n);
    }

    void add(const Matrix& m, const float* from) {
        const Input in = reader.read(m, from, n);
        hands.each(m.columns / BLOCK, [&](int64_t first, int64_t last) {
            product(m, in, n, first, last, [&](int64_t row, int64_t some, int64_t block, float(*y)[BLOCK]) {
                for (int64_t i = 0; i < some; i++) {
                    float* to = x + (row + i) * it.width + block * BLOCK;
                    store(to, load(to) + load(y[i])), store(to + WIDE, load(to + WIDE) + load(y[i] + WIDE));
                }
            });
        });
    }

    // One head: its queries, keys and values, which are kept, and what it finds.
    void look(const Layer& layer, Input in, int64_t number, int64_t head, bool only_keep) {
        const int64_t panel = layer.panel, blocks = panel / BLOCK;
        float* own = &panels[head * n * panel];
        product(layer.qkv, in, n, head * blocks, (head + 1) * blocks,
                [&](int64_t row, int64_t some, int64_t block, float(*y)[BLOCK]) {
                    for (int64_t i = 0; i < some; i++)
                        std::memcpy(own + (row + i) * panel + (block - head * blocks) * BLOCK, y[i], sizeof y[i]);
                });
        for (int64_t i = 0, row = 0; i < count; row += sequences[i++].count) {
            const Sequence& s = sequences[i];
            float* at = own + row * panel;
            for (int64_t j = 0; j < s.count; j++) {
                const int64_t place = number * s.stride + (head * s.room + s.column + j) * D;
                float* q = at + j * panel;
                turn(q, cos + (s.position + j) * D, sin + (s.position + j) * D, D);
                turn(q + D, cos + (s.position + j) * D, sin + (s.position + j) * D, D);
                std::memcpy(s.keys + place, q + D, D * sizeof(float));
                std::memcpy(s.values + place, q + 2 * D, D * sizeof(float));
            }
            if (!only_keep)
                attend<D>(&found[row * it.width + head * D], it.width, at, panel, s, number, head, it.heads);
        }
    }

    const Decoder& it;
    const Sequence* sequences;
    const int64_t count;
    float* x;
    const float *cos, *sin;
    Hands hands;
    int64_t n = 0;
    Reader reader;
    std::vector<float> normed, found, gated, panels;
};

}  // namespace

extern "C" {

int has_int8() {
#ifdef __AVX512VNNI__
    return 1;
#else
    return 0;
#endif
}

// x (n, width) becomes hidden states, in place. Returns 0 where the size of a head is none that is compiled.
int forward(const Decoder* decoder, const Sequence* sequences, int64_t count, float* x, const float* control,
            int64_t control_width, const float* cos, const float* sin, int reading, int threads) {
    const auto run = [&]<int D>() {
        Forward<D>(*decoder, sequences, count, x, cos, sin, threads).run(control, control_width, reading);
        return 1;
    };
    switch (decoder->width / decoder->heads) {
        case 16: return run.template operator()<16>();
        case 32: return run.template operator()<32>();
        case 64: return run.template operator()<64>();
        case 128: return run.template operator()<128>();
    }
    return 0;
}

// y (n, columns) = x (n, depth) by the matrix, and `bias` where there is one.
void dense(const Matrix* m, const float* x, int64_t n, const float* bias, float* y, int threads) {
    Reader reader;
    const Input in = reader.read(*m, x, n);
    Hands(threads).each(m->columns / BLOCK, [&](int64_t from, int64_t to) {
        product(*m, in, n, from, to, [&](int64_t row, int64_t some, int64_t block, float(*part)[BLOCK]) {
            for (int64_t i = 0; i < some; i++)
                for (int j = 0; j < BLOCK; j += WIDE) {
                    const Vec more = bias ? load(bias + block * BLOCK + j) : Vec{};
                    store(y + (row + i) * m->columns + block * BLOCK + j, load(part[i] + j) + more);
                }
        });
    });
}

// One token for each of n rows of logits: as `sampling.sample`, where the temperature is above 0. Only where the winner
// is not among the `top_k` likeliest are they looked for. `scores` and `sums` (columns, a multiple of 16) are for it.
void sample(const float* logits, const float* noise, int64_t n, int64_t columns, float temperature, int64_t top_k,
            float* scores, float* sums, int64_t* tokens) {
    for (int64_t row = 0; row < n; row++, logits += columns, noise += columns) {
        for (int64_t i = 0; i < columns; i += WIDE) {
            store(scores + i, load(logits + i) / temperature);
            store(sums + i, load(scores + i) + load(noise + i));
        }
        tokens[row] = largest_at(sums, columns);
        if (top_k <= 0 || above(scores, columns, scores[tokens[row]]) < top_k) continue;
        std::vector<float> sorted(scores, scores + columns);
        std::nth_element(sorted.begin(), sorted.begin() + top_k - 1, sorted.end(), std::greater<float>());
        for (int64_t i = 0; i < columns; i++)
            if (scores[i] < sorted[top_k - 1]) sums[i] = -INFINITY;
        tokens[row] = largest_at(sums, columns);
    }
}
}
