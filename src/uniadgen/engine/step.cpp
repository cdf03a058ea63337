// All layers of the decoder for some positions of some rows, on a CPU. `native.py` says how it is compiled and called.
//
// Few positions by many weights is a matter of reading weights: each is read once, for all positions. Threads share the
// columns of a product, and whoever is free takes the next ones: before a call ends, nobody waits for a thread that the
// system has put aside. A column is summed in the same order however many threads and positions there are, so neither
// changes a number.

#include "painting.h"

extern "C" {

// Numbers of a vector, by which weights are laid out.
int wide() { return WIDE; }

int has_int8() {
#ifdef __AVX512VNNI__
    return 1;
#else
    return 0;
#endif
}

// x (n, width) becomes hidden states, in place. `reading`: only keys and values are wanted.
void forward(const Decoder* decoder, const Sequence* sequences, int64_t count, float* x, const float* control,
             int64_t control_width, const float* cos, const float* sin, int reading, int threads) {
    with_hands(threads, [&](Hands& hands) {
        by_size(*decoder, [&]<int D>() {
            Forward<D>(*decoder, sequences, count, x, cos, sin, hands).run(control, control_width, reading);
            return 1;
        });
    });
}

// y (n, columns) = x (n, depth) by the matrix, and `bias` where there is one.
void dense(const Matrix* m, const float* x, int64_t n, const float* bias, float* y, int threads) {
    with_hands(threads, [&](Hands& hands) {
        Reader reader;
        dense(hands, reader, *m, x, n, bias, y, [](Vec y) { return y; });
    });
}

// One token for each of n rows of logits; `room` (2 columns) is for it.
void sample(const float* logits, const float* noise, int64_t n, int64_t columns, float temperature, int64_t top_k,
            float* room, int64_t* tokens) {
    for (int64_t row = 0; row < n; row++)
        tokens[row] = sample(logits + row * columns, noise + row * columns, columns, temperature, top_k, room);
}

// At most so many steps of a canvas, and no new one once the bell was rung: how many they were.
int64_t paint(const Decoder* decoder, const Head* head, const Way* way, const Canvas* canvas, Sequence* sequences,
              const float* cos, const float* sin, int64_t most, const int64_t* bell, int threads) {
    int64_t steps = 0;
    with_hands(threads, [&](Hands& hands) {
        steps = by_size(*decoder, [&]<int D>() {
            return Painting<D>(*decoder, *head, *way, *canvas, sequences, cos, sin, hands).run(most, bell);
        });
    });
    return steps;
}
}
