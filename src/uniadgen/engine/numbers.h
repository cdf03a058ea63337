// Vectors of 16 numbers where there is AVX-512, elsewhere of 8, as AVX2 has them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int WIDE = 16;  // numbers of a vector
constexpr int ROWS = 8;   // positions whose sums are kept in registers
#else
constexpr int WIDE = 8, ROWS = 4;
#endif
constexpr int BLOCK = 2 * WIDE;  // columns of a block
typedef float Vec __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
#define UNROLL _Pragma("GCC unroll 16")  // so that sums stay in registers

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline void store(float* to, Vec x) { *reinterpret_cast<Vec*>(to) = x; }
inline Vec load(const uint16_t* half) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)));
#elif defined(__F16C__)
    return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(half)));
#else
    float wide[WIDE];
    const _Float16* numbers = reinterpret_cast<const _Float16*>(half);
    for (int i = 0; i < WIDE; i++) wide[i] = numbers[i];
    return load(wide);
#endif
}

inline float sum(Vec x) {
    float total = 0;
    for (int half = WIDE / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return total + x[0];
}

#ifdef __AVX512F__
constexpr Ints PLACES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
constexpr Ints PLACES = {0, 1, 2, 3, 4, 5, 6, 7};
#endif

// Sums of WIDE vectors: of each two, numbers STEP apart are added; where a place has that bit, those of the second.
template <int STEP = 1>
inline Vec sums(Vec* x) {
    constexpr Ints here = PLACES + (PLACES & STEP) / STEP * WIDE, there = here ^ STEP;
    UNROLL for (int i = 0; i < WIDE / 2 / STEP; i++)
        x[i] = __builtin_shuffle(x[2 * i], x[2 * i + 1], here) + __builtin_shuffle(x[2 * i], x[2 * i + 1], there);
    if constexpr (2 * STEP < WIDE) return sums<2 * STEP>(x);
    return x[0];
}

// Adds x (R, depth) by w (depth, WIDE V) to y (R, WIDE V), whose rows lie so far apart. w is fetched AHEAD rows early.
template <int R, int V, int AHEAD, class Weight>
inline void add_product(float* y, int64_t y_stride, const float* x, int64_t x_stride, const Weight* w, int64_t w_stride,
                        int64_t depth) {
    Vec sums[R][V];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) sums[r][v] = load(y + r * y_stride + v * WIDE);
    for (int64_t k = 0; k < depth; k++, w += w_stride) {
        if (AHEAD) __builtin_prefetch(w + AHEAD * w_stride);
        Vec row[V];
        UNROLL for (int v = 0; v < V; v++) row[v] = load(w + v * WIDE);
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < V; v++) sums[r][v] += row[v] * x[r * x_stride + k];
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) store(y + r * y_stride + v * WIDE, sums[r][v]);
}

// Calls `use` with a number that is known when it is compiled: `count`, which is R at least and ROWS at most.
template <int R = 1, class Use>
inline void with_count(int64_t count, Use use) {
    if constexpr (R < ROWS)
        if (count > R) return with_count<R + 1>(count, use);
    use.template operator()<R>();
}

// Calls `use` for n rows in tiles, the last two of which are alike: with how many they are, and the first one.
template <class Use>
inline void in_tiles(int64_t n, Use use) {
    for (int64_t row = 0, some; row < n; row += some) {
        const int64_t left = n - row;
        some = left <= ROWS ? left : left < 2 * ROWS ? (left + 1) / 2 : ROWS;
        with_count(some, [&]<int R>() { use.template operator()<R>(row); });
    }
}

inline float largest_of(const float* x, int64_t count) {  // a multiple of WIDE
    Vec most = load(x);
    for (int64_t i = WIDE; i < count; i += WIDE) most = load(x + i) > most ? load(x + i) : most;
    float largest = most[0];
    for (int i = 1; i < WIDE; i++) largest = std::max(largest, most[i]);
    return largest;
}

inline int64_t largest_at(const float* x, int64_t count) { return std::find(x, x + count, largest_of(x, count)) - x; }

inline int64_t above(const float* x, int64_t count, float limit) {
    Ints found{};
    for (int64_t i = 0; i < count; i += WIDE) found -= load(x + i) > limit;
    int64_t total = 0;
    for (int i = 0; i < WIDE; i++) total += found[i];
    return total;
}

// e^x to the last bit or two: 2^n (1 + a polynomial of what is left).
inline Vec exponential(Vec x) {
    x = x < -87.0f ? (Vec{} - 87.0f) : x > 88.0f ? (Vec{} + 88.0f) : x;
    const Vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    return p * (Vec)power;
}

// x times the chance that a normal number is below x, to 1.5e-7: Abramowitz and Stegun 7.1.26.
inline Vec gelu(Vec x) {
    const Vec z = (x < 0.0f ? -x : x) * 0.707106781f, t = 1.0f / (z * 0.3275911f + 1.0f);
    Vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const Vec beyond = p * t * exponential(-z * z) * 0.5f;
    return x * (x < 0.0f ? beyond : 1.0f - beyond);
}

void norm(float* to, const float* x, const float* weight, int64_t width, float eps) {
    Vec squares{};
    for (int64_t i = 0; i < width; i += WIDE) squares += load(x + i) * load(x + i);
    const float scale = 1 / std::sqrt(sum(squares) / width + eps);
    for (int64_t i = 0; i < width; i += WIDE) store(to + i, load(x + i) * scale * load(weight + i));
}

}  // namespace
