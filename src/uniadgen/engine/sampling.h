// One token of some logits, as `sampling.sample` takes it.
#pragma once

#include "numbers.h"

#include <functional>
#include <vector>

namespace {

// Where the temperature is above 0. Only where the winner is not among the `top_k` likeliest are they looked for.
// `room` (2 columns, a multiple of WIDE) is for it.
int64_t sample(const float* logits, const float* noise, int64_t columns, float temperature, int64_t top_k,
               float* room) {
    float *scores = room, *sums = room + columns;
    for (int64_t i = 0; i < columns; i += WIDE) {
        store(scores + i, load(logits + i) / temperature);
        store(sums + i, load(scores + i) + load(noise + i));
    }
    const int64_t winner = largest_at(sums, columns);
    if (top_k <= 0 || above(scores, columns, scores[winner]) < top_k) return winner;
    std::vector<float> sorted(scores, scores + columns);
    std::nth_element(sorted.begin(), sorted.begin() + top_k - 1, sorted.end(), std::greater<float>());
    for (int64_t i = 0; i < columns; i++)
        if (scores[i] < sorted[top_k - 1]) sums[i] = -INFINITY;
    return largest_at(sums, columns);
}

}  // namespace
