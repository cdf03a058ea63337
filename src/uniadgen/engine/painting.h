// Pictures painted step after step, as painting.py has it: nobody else is asked between two steps.
#pragma once

#include "decoder.h"
#include "sampling.h"

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
    int64_t count;       // cells of a step, at most
    int64_t side;        // cells of a row of a picture
    int64_t top_k;
    float temperature;
    // Of staggered rows, as canvas.py has it; else none.
    const float* begin;
    const int64_t *first, *paints, *fed, *place;
};

template <int D>
class Painting {
   public:
    Painting(const Decoder& decoder, const Head& head, const Way& way, const Canvas& canvas, Sequence* sequences,
             const float* cos, const float* sin, Hands& hands)
        : it(decoder), head(head), way(way), on(canvas), sequences(sequences), hands(hands),
          x(on.rows * way.count * it.width), control(on.rows * way.count * on.control_width),
          inner(on.rows * way.count * head.first.columns), logits(on.rows * way.count * head.second.columns),
          begins(on.rows), next(on.pictures * way.count),
          forward(decoder, sequences, on.rows, x.data(), cos, sin, hands) {}

    // Until a picture has another row of cells or comes to its end, or there were `most` steps, or the bell, which
    // other threads ring, is not 0. How many steps there were.
    int64_t run(int64_t most, const int64_t* bell) {
        for (int64_t steps = 1;; steps++)
            if (step() || steps == most || __atomic_load_n(bell, __ATOMIC_RELAXED)) return steps;
    }

   private:
    bool step() {
        int64_t n = 0;
        for (int64_t row = 0; row < on.rows; n += sequences[row++].count) feed(row, begins[row] = n);
        forward.run(on.control ? control.data() : nullptr, on.control_width, false);
        dense(hands, reader, head.first, x.data(), n, head.first_bias, inner.data(), [](Vec y) { return gelu(y); });
        dense(hands, reader, head.second, inner.data(), n, head.second_bias, logits.data(), [](Vec y) { return y; });
        hands.each(on.pictures * way.count, [&](int64_t from, int64_t to) {
            for (int64_t i = from; i < to; i++)
                if (i % way.count < asked(i / way.count)) next[i] = choose(i / way.count, i % way.count);
        });
        bool far = false;
        for (int64_t picture = 0; picture < on.pictures; picture++) far |= settle(picture);
        return far;
    }

    // Where a picture is: at a cell, or at a step of staggered rows; where all is painted, at the last one again.
    int64_t at(int64_t picture) const { return std::min(on.cell[picture], on.end[picture] - 1); }
    int64_t asked(int64_t picture) const { return way.begin ? way.paints[at(picture)] : way.count; }
    int64_t cell(int64_t picture, int64_t i) const {
        return way.begin ? way.place[at(picture) * way.count + i] : at(picture) + i;
    }

    // The positions of a row, from number `to` of all that are fed: codes, or what begins a row of cells.
    void feed(int64_t row, int64_t to) {
        const int64_t picture = on.owner[row], step = at(picture), start = on.start[row];
        Sequence& s = sequences[row];
        s.count = way.begin ? way.first[step + 1] - way.first[step] : way.count;
        s.column = start + (way.begin ? way.first[step] : step) - s.shared;
        for (int64_t i = 0; i < s.count; i++, to++) {
            const int64_t place = cell(picture, i), fed = way.begin ? way.fed[step * way.count + i] : place - 1;
            s.position[i] = start + place;
            s.sees[i] = s.column + (way.begin ? s.count : i + 1);
            const float* from = fed < 0 ? way.begin : way.codes + on.codes[picture * on.width + fed] * it.width;
            std::copy_n(from, it.width, &x[to * it.width]);
            if (!on.control) continue;
            const int64_t shown = i < asked(picture) ? std::min(place, on.cells - 1) : on.cells - 1;
            std::copy_n(on.control + (row * on.cells + shown) * on.control_width, on.control_width,
                        &control[to * on.control_width]);
        }
    }

    // The code of the i-th cell of a picture in this step: guided, then sampled, unless it is known.
    int64_t choose(int64_t picture, int64_t i) const {
        const int64_t here = cell(picture, i), size = head.second.columns;
        if (const int64_t code = known(picture, here); code >= 0) return code;
        const float* with = &logits[(begins[on.branches[picture]] + i) * size];
        const float* without = &logits[(begins[on.branches[on.pictures + picture]] + i) * size];
        static thread_local std::vector<float> room;
        room.resize(3 * size);
        for (int64_t j = 0; j < size; j += WIDE) {
            const Vec base = load(without + j);
            store(&room[j], base + on.guidance[picture] * (load(with + j) - base));
        }
        if (!on.noise) return largest_at(room.data(), size);
        const float* noise = on.noise + (picture * on.depth + here % on.depth) * size;
        return sample(room.data(), noise, size, way.temperature, way.top_k, &room[size]);
    }

    int64_t known(int64_t picture, int64_t cell) const {
        return on.known ? on.known[picture * on.width + cell] : -1;
    }

    // Whether there is something to be told.
    bool settle(int64_t picture) {
        const bool whole = way.begin ? keep(picture) : keep_right(picture);
        return whole || on.cell[picture] == on.end[picture];
    }

    // All cells of a step of staggered rows. Whether a row is whole.
    bool keep(int64_t picture) {
        bool whole = false;
        for (int64_t i = 0; i < asked(picture); i++) {
            const int64_t here = cell(picture, i);
            on.codes[picture * on.width + here] = next[picture * way.count + i];
            whole |= (here + 1) % way.side == 0;
        }
        on.cell[picture] = at(picture) + 1;
        return whole;
    }

    // Right are the first cell and those whose drafts before are right; drafts of those that come next are as the last.
    // Whether another row is whole.
    bool keep_right(int64_t picture) {
        const int64_t count = way.count, first = at(picture), *made = &next[picture * count];
        int64_t* codes = on.codes + picture * on.width + first;
        const int64_t right = 1 + (std::mismatch(made, made + count - 1, codes).first - made);
        std::copy_n(made, count, codes);
        for (int64_t i = count; i < 2 * count && count > 1; i++) {
            const int64_t code = known(picture, first + i);
            codes[i] = code >= 0 ? code : made[count - 1];
        }
        on.cell[picture] = std::min(first + right, on.end[picture]);
        return on.cell[picture] / way.side > first / way.side;
    }

    const Decoder& it;
    const Head& head;
    const Way& way;
    const Canvas& on;
    Sequence* sequences;  // of all rows, with place for `count` positions each
    Hands& hands;
    std::vector<float> x, control, inner, logits;
    std::vector<int64_t> begins, next;  // where the positions of a row begin; codes that came out
    Reader reader;
    Forward<D> forward;
};

}  // namespace
