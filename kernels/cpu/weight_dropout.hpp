/* cpu/weight_dropout.hpp: dropout of the recurrent weights, which is the same for all batch rows and time steps of a
 * training step. What is multiplied is the parameters before a window, and their gradients after it.
 */
#pragma once

#include "cpu/forward.hpp"

/* Multiplies the recurrent weights that job `job` of task.threads has by their factors, 0 or 1/(1 - probability). An
 * element of a layer's W_hh [4H,H] is dropped where its word of philox(element/4, 2^30 + layer, training step; seed) is
 * below probability * 2^32.
 * flat: the parameters, or their gradients, which lie alike
 */
inline void drop_recurrent(const Task& task, real* flat, long job) {
    const Layout layout(task);
    const std::uint32_t threshold = static_cast<std::uint32_t>(task.weight_dropout * 4294967296.0);
    const real scale = 1 / (1 - task.weight_dropout);
    const Share part(4 * layout.H * layout.H, job, task.threads);
    for (long layer = 0; layer < layout.L; ++layer) {
        real* const weights = flat + layout.recurrent(layer);
        for (long element = part.begin; element < part.end;) {
            const Words words = philox(
                {static_cast<unsigned>(element / 4), static_cast<unsigned>(layer) | 1u << 30,
                 static_cast<unsigned>(task.step), static_cast<unsigned>(task.step >> 32)}, task.seed);
            const unsigned word[] = {words.w0, words.w1, words.w2, words.w3};
            for (long choice = element % 4; choice < 4 && element < part.end; ++choice, ++element)
                weights[element] *= word[choice] >= threshold ? scale : 0;
        }
    }
}
