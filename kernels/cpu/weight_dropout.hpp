/* cpu/weight_dropout.hpp: dropout of the recurrent weights, which is the same for all batch rows and time steps of a
 * training step. What is multiplied is the parameters before a window, and their gradients after it.
 */
#pragma once

#include "cpu/forward.hpp"

/* The factors of elements first .. first+count-1 of a layer's W_hh [4H,H], 0 or 1/(1 - probability). An element is dropped
 * where its word of philox(element/4, 2^30 + layer, training step; seed) is below probability * 2^32.
 */
template <class Multiply>
inline void weight_factors(const Task& task, long layer, std::uint64_t first, std::uint64_t count, Multiply multiply) {
    const std::uint32_t threshold = static_cast<std::uint32_t>(task.weight_dropout * 4294967296.0);
    const real scale = 1 / (1 - task.weight_dropout);
    for (std::uint64_t element = first; element < first + count;) {
        const Words words = philox(
            {static_cast<unsigned>(element / 4), static_cast<unsigned>(layer) | 1u << 30,
             static_cast<unsigned>(task.step), static_cast<unsigned>(task.step >> 32)}, task.seed);
        const unsigned word[] = {words.w0, words.w1, words.w2, words.w3};
        for (unsigned choice = element % 4; choice < 4 && element < first + count; ++choice, ++element)
            multiply(element, word[choice] >= threshold ? scale : 0);
    }
}

/* What job `job` of task.threads has of: to = from, with the recurrent weights times their factors. Both are flat, as
 * parameters are, and may be the same array.
 */
inline void drop_recurrent(const Task& task, const real* from, real* to, long job) {
    const Layout layout(task);
    const auto copy = [&](long begin, long end) {
        const Share part(end - begin, job, task.threads);
        if (from != to) std::copy(from + begin + part.begin, from + begin + part.end, to + begin + part.begin);
    };
    for (long layer = 0; layer < layout.L; ++layer) {
        const long recurrent = layout.recurrent(layer);
        copy(layout.inputs(layer), recurrent);
        copy(layout.bias(layer), layout.inputs(layer + 1));
        const Share part(4 * layout.H * layout.H, job, task.threads);
        weight_factors(task, layer, part.begin, part.end - part.begin, [&](std::uint64_t element, real factor) {
            to[recurrent + element] = from[recurrent + element] * factor;
        });
    }
    copy(layout.head(), layout.head_bias() + layout.V);
}
