// Products of few positions by many weights: weights are read once, for all positions.
#pragma once

#include "hands.h"
#include "numbers.h"

#include <cstring>
#include <vector>

namespace {

struct Matrix {  // as that of native.py
    const void* packed;    // (columns / BLOCK, depth, BLOCK), in int8 (columns / BLOCK, depth / 4, BLOCK, 4)
    const float* scale;    // of every column, in int8
    const int32_t* sums;   // of every column, in int8
    int64_t depth, columns, bits;
};
struct Input {  // of a product: n positions, as numbers or, in int8, as steps of a scale of their own above -128
    const float* x;
    int64_t stride;
    const uint8_t* steps;
    const float* scale;
};

template <int R, class Weight>
void tile(float (*y)[BLOCK], const Matrix& m, Input in, int64_t block) {
    const Weight* w = static_cast<const Weight*>(m.packed) + block * m.depth * BLOCK;
    std::fill_n(y[0], R * BLOCK, 0.0f);
    add_product<R, BLOCK / WIDE, (R > 1 ? 32 : 0)>(y[0], BLOCK, in.x, in.stride, w, BLOCK, m.depth);
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
        in_tiles(n, [&]<int R>(int64_t row) {
            const Input here{in.x + row * in.stride, in.stride, in.steps + row * in.stride, in.scale + row};
            rows_by_block<R>(y, m, here, block);
            use(row, R, block, y);
        });
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

// y (n, columns) = of every vector of x (n, depth) by the matrix, and `bias` where there is one, what `then` makes of it.
template <class Then>
void dense(Hands& hands, Reader& reader, const Matrix& m, const float* x, int64_t n, const float* bias, float* y,
           Then then) {
    const Input in = reader.read(m, x, n);
    hands.each(m.columns / BLOCK, [&](int64_t from, int64_t to) {
        product(m, in, n, from, to, [&](int64_t row, int64_t some, int64_t block, float(*part)[BLOCK]) {
            for (int64_t i = 0; i < some; i++)
                for (int j = 0; j < BLOCK; j += WIDE) {
                    const Vec more = bias ? load(bias + block * BLOCK + j) : Vec{};
                    store(y + (row + i) * m.columns + block * BLOCK + j, then(load(part[i] + j) + more));
                }
        });
    });
}

}  // namespace
