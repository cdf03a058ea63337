// Pictures painted step after step, as painting.py has it: nobody else is asked between two steps.
#pragma once

#include "decoder.h"
#include "sampling.h"

#include <chrono>

namespace {

// As the structures of native_painting.py.
struct Head {  // scores of codes: by one matrix, gelu, by another one
    Matrix first, second;
    const float *first_bias, *second_bias;
};
struct Canvas {  // that of canvas.py: R pictures, `rows` rows; K1, W and Q are its numbers of cells, and `codes`
    int64_t *codes, *cell;
    const int64_t *end, *known, *start, *owner, *branches;  // `known` may be none, as may `noise` and `control`
    const float *noise, *guidance, *control;
    int64_t pictures, rows, width, depth, cells, control_width;
};
struct Way {  // how it is painted
    const float* codes;  // embedded (Q, width)
    int64_t count;       // cells of a step
    int64_t side;        // cells of a row of a picture
    int64_t top_k;
    float temperature;
};

template <int D>
class Painting {
   public:
    Painting(const Decoder& decoder, const Head& head, const Way& way, const Canvas& canvas, Sequence* sequences,
             const float* cos, const float* sin, Hands& hands)
        : it(decoder), head(head), way(way), on(canvas), sequences(sequences), hands(hands), n(on.rows * way.count),
          x(n * it.width), control(n * on.control_width), inner(n * head.first.columns),
          logits(n * head.second.columns), next(on.pictures * way.count),
          forward(decoder, sequences, on.rows, x.data(), cos, sin, hands) {}

    // Until a picture has another row of cells or comes to its end, or there were `most` steps, or it took so many
    // seconds. How many steps there were.
    int64_t run(int64_t most, double seconds) {
        const auto began = std::chrono::steady_clock::now();
        for (int64_t steps = 1;; steps++) {
            const bool far = step();
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
            if (far || steps == most || took.count() > seconds) return steps;
        }
    }

   private:
    bool step() {
        for (int64_t row = 0; row < on.rows; row++) feed(row);
        forward.run(on.control ? control.data() : nullptr, on.control_width, false);
        dense(hands, reader, head.first, x.data(), n, head.first_bias, inner.data(), [](Vec y) { return gelu(y); });
        dense(hands, reader, head.second, inner.data(), n, head.second_bias, logits.data(), [](Vec y) { return y; });
        hands.each(on.pictures * way.count, [&](int64_t from, int64_t to) {
            for (int64_t i = from; i < to; i++) next[i] = choose(i / way.count, i % way.count);
        });
        bool far = false;
        for (int64_t picture = 0; picture < on.pictures; picture++) far |= settle(picture);
        return far;
    }

    // Of a picture in this step; where all is painted, the last one again.
    int64_t first_cell(int64_t picture) const { return std::min(on.cell[picture], on.end[picture] - 1); }

    // The codes before, and where they stand.
    void feed(int64_t row) {
        const int64_t picture = on.owner[row], cell = first_cell(picture);
        Sequence& s = sequences[row];
        s.column = on.start[row] + cell - s.shared;
        for (int64_t i = 0, at = row * way.count; i < way.count; i++, at++) {
            s.position[i] = on.start[row] + cell + i;
            s.sees[i] = s.column + i + 1;
            const int64_t code = on.codes[picture * on.width + cell + i - 1];
            std::copy_n(way.codes + code * it.width, it.width, &x[at * it.width]);
            if (!on.control) continue;
            const int64_t place = row * on.cells + std::min(cell + i, on.cells - 1);
            std::copy_n(on.control + place * on.control_width, on.control_width, &control[at * on.control_width]);
        }
    }

    // The code of the i-th cell of a picture in this step: guided, then sampled, unless it is known.
    int64_t choose(int64_t picture, int64_t i) const {
        const int64_t cell = first_cell(picture) + i, size = head.second.columns;
        if (const int64_t code = known(picture, cell); code >= 0) return code;
        const float* with = &logits[(on.branches[picture] * way.count + i) * size];
        const float* without = &logits[(on.branches[on.pictures + picture] * way.count + i) * size];
        static thread_local std::vector<float> room;
        room.resize(3 * size);
        for (int64_t j = 0; j < size; j += WIDE) {
            const Vec base = load(without + j);
            store(&room[j], base + on.guidance[picture] * (load(with + j) - base));
        }
        if (!on.noise) return largest_at(room.data(), size);
        const float* noise = on.noise + (picture * on.depth + cell % on.depth) * size;
        return sample(room.data(), noise, size, way.temperature, way.top_k, &room[size]);
    }

    int64_t known(int64_t picture, int64_t cell) const {
        return on.known ? on.known[picture * on.width + cell] : -1;
    }

    // Right are the first cell and those whose drafts before are right; drafts of those that come next are as the last.
    bool settle(int64_t picture) {
        const int64_t count = way.count, cell = first_cell(picture), *made = &next[picture * count];
        int64_t* codes = on.codes + picture * on.width + cell;
        const int64_t right = 1 + (std::mismatch(made, made + count - 1, codes).first - made);
        std::copy_n(made, count, codes);
        for (int64_t i = count; i < 2 * count && count > 1; i++) {
            const int64_t code = known(picture, cell + i);
            codes[i] = code >= 0 ? code : made[count - 1];
        }
        on.cell[picture] = std::min(cell + right, on.end[picture]);
        return on.cell[picture] == on.end[picture] || on.cell[picture] / way.side > cell / way.side;
    }

    const Decoder& it;
    const Head& head;
    const Way& way;
    const Canvas& on;
    Sequence* sequences;  // of all rows, with `count` positions each
    Hands& hands;
    const int64_t n;
    std::vector<float> x, control, inner, logits;
    std::vector<int64_t> next;
    Reader reader;
    Forward<D> forward;
};

}  // namespace
