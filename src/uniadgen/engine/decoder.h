// All layers of the decoder for some positions of some rows.
#pragma once

#include "attention.h"
#include "products.h"

namespace {

// As the structures of native.py.
struct Layer {
    const float *norm, *second_norm;
    Matrix qkv, out, wide, down;  // queries, keys and values head by head; gates and the rest in turns of WIDE
    int64_t site, panel;          // panel: columns of one head in `qkv`
};
struct Decoder {
    const Layer* layers;
    const float* norm;
    int64_t count, width, heads, inner;
    double eps;
};

// From x (n, width) to hidden states, in place; `sequences` may be others when it is run again.
template <int D>
class Forward {
   public:
    Forward(const Decoder& decoder, const Sequence* sequences, int64_t count, float* x, const float* cos,
            const float* sin, Hands& hands)
        : it(decoder), sequences(sequences), count(count), x(x), cos(cos), sin(sin), hands(hands) {}

    // `reading`: only keys and values are wanted.
    void run(const float* control, int64_t control_width, bool reading) {
        n = 0;
        for (int64_t i = 0; i < count; i++) n += sequences[i].count;
        normed.resize(n * it.width), found.resize(n * it.width), gated.resize(n * it.inner);
        panels.resize(it.heads * n * it.layers[0].panel);
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
                turn(q, cos + s.position[j] * D, sin + s.position[j] * D, D);
                turn(q + D, cos + s.position[j] * D, sin + s.position[j] * D, D);
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
    Hands& hands;
    int64_t n = 0;
    Reader reader;
    std::vector<float> normed, found, gated, panels;
};

// What `run` returns for the size of a head; 0 where it is none that is compiled.
template <class Run>
int64_t by_size(const Decoder& decoder, Run run) {
    switch (decoder.width / decoder.heads) {
        case 16: return run.template operator()<16>();
        case 32: return run.template operator()<32>();
        case 64: return run.template operator()<64>();
        case 128: return run.template operator()<128>();
    }
    return 0;
}

}  // namespace
