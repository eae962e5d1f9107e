/* cpu/forward.hpp: layers, head and loss, for some of the batch rows. */
#pragma once

#include <cmath>

#include "cpu/layout.hpp"

#define __device__
#define __forceinline__ inline
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<std::uint64_t>(a) * b >> 32; }
#include "common/philox.cuh"

inline Lanes sigmoid_of_half(Lanes half) { return fused(tanh(half), all(0.5), all(0.5)); }

/* R rows of a vector of units at one step. */
template <int R>
inline void cell(const Task& task, const Layout& at, long layer, long t, long b, long u, Number<R>) {
    const long Hp = at.Hp, row = t * task.B + b, rows = task.T * task.B + task.B, unit = u * LANES;
    const real* const weights = task.weights;
    real* const h = task.h + (layer * rows + row) * Hp;
    real* const c = task.c + (layer * rows + row) * Hp;
    Lanes sum[R][4] = {};
    const long panel = u * at.H * 4 * LANES;
    if (layer) multiply<R, 4>(sum, at.output(task, layer - 1) + row * Hp, Hp, weights + at.inputs_forward(layer) + panel, at.H);
    multiply<R, 4>(sum, h, Hp, weights + at.recurrent_forward(layer) + panel, at.H);
    Lanes held[R][4];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        // Last, since most products are smaller than the forget gate's bias.
        const real* start = weights + at.first(layer) + (layer ? 0 : task.inputs[row + r] * 4 * Hp);
#pragma GCC unroll 4
        for (int gate = 0; gate < 4; ++gate) held[r][gate] = sum[r][gate] + load(start + gate * Hp + unit);
    }
    for (int r = 0; r < R; ++r) {
        const Lanes i = sigmoid_of_half(held[r][0]), f = sigmoid_of_half(held[r][1]), g = tanh(held[r][2]), o = sigmoid_of_half(held[r][3]);
        const Lanes next = fused(f, load(c + r * Hp + unit), i * g);
        store(c + (task.B + r) * Hp + unit, next);
        store(h + (task.B + r) * Hp + unit, o * tanh(next));
        if (task.gates) {
            real* gates = task.gates + (layer * task.T * task.B + row + r) * 4 * Hp + unit;
            store(gates, i), store(gates + Hp, f), store(gates + 2 * Hp, g), store(gates + 3 * Hp, o);
        }
    }
}

/* Factors of a row of a layer's output, and the row times them. */
inline void drop(const Task& task, const Layout& at, long layer, long row) {
    const long place = (layer * task.T * task.B + row) * at.Hp;
    const real* h = task.h + (layer * (task.T + 1) * task.B + task.B + row) * at.Hp;
    const std::uint32_t threshold = static_cast<std::uint32_t>(task.dropout * 4294967296.0);
    const real scale = 1 / (1 - task.dropout);
    const std::uint64_t first = static_cast<std::uint64_t>(row) * at.H;
    for (std::uint64_t element = first; element < first + at.H;) {
        const Words words = philox({static_cast<unsigned>(element / 4), static_cast<unsigned>(layer), static_cast<unsigned>(task.step), static_cast<unsigned>(task.step >> 32)}, task.seed);
        const unsigned word[] = {words.w0, words.w1, words.w2, words.w3};
        for (unsigned choice = element % 4; choice < 4 && element < first + at.H; ++choice, ++element)
            task.masks[place + element - first] = word[choice] >= threshold ? scale : 0;
    }
    for (long unit = 0; unit < at.H; ++unit) task.dropped[place + unit] = h[unit] * task.masks[place + unit];
}

/* -log softmax(logits)[target]; with a way back, logits become the gradient of the mean over N. */
inline real cross_entropy(real* logits, long V, long target, long N, bool way_back) {
    real largest = logits[0], total = 0;
    for (long v = 1; v < V; ++v) largest = logits[v] > largest ? logits[v] : largest;
    const real chosen = logits[target] - largest;
    constexpr int PARTS = 64 / sizeof(real);  // of the sum, however wide a vector is
    real parts[PARTS] = {};
    for (long v = 0; v < V; v += LANES) {
        const Lanes e = exp_of_negative(load(logits + v) - largest);  // rows are padded
        store(logits + v, e);
        put(parts + v % PARTS, e, V - v, true);
    }
    for (const real part : parts) total += part;
    if (way_back) {
        for (long v = 0; v < V; ++v) logits[v] /= total * N;
        logits[target] -= real(1) / N;
    }
    return std::log(total) - chosen;
}

/* Logits of R rows in a panel of characters at one step. */
template <int R, int P>
inline void logits_of(const Task& task, const Layout& at, long t, long b, long number, Number<R>, Number<P>) {
    const real* const bias = task.weights + at.head_bias_row() + number * P * LANES;
    const real* const panel = task.weights + at.head_forward() + number * at.H * P * LANES;
    const real* const h = at.output(task, at.L - 1) + (t * task.B + b) * at.Hp;
    real* const logits = task.logits + (t * task.B + b) * at.Vp + number * P * LANES;
    Lanes sum[R][P] = {};
    multiply<R, P>(sum, h, at.Hp, panel, at.H);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
        if ((number * P + p) * LANES < at.Vp)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) store(logits + r * at.Vp + p * LANES, sum[r][p] + load(bias + p * LANES));
}

inline void head(const Task& task, const Layout& at, long t, Share rows) {
    with<WIDTH>(at.characters.width, [&](auto P) {
        for (long number = 0; number < at.characters.count; ++number)
            for_tiles<ROWS>(rows.begin, rows.end, [&](long b, auto R) { logits_of(task, at, t, b, number, R, P); });
    });
    if (!task.targets) return;
    for (long row = t * task.B + rows.begin; row < t * task.B + rows.end; ++row)
        task.losses[row] = cross_entropy(task.logits + row * at.Vp, at.V, task.targets[row], task.T * task.B, task.gates);
}

inline void forward(const Task& task, const Layout& at, Share rows) {
    for (long layer = 0; layer < at.L; ++layer)
        for (long t = 0; t < task.T; ++t) {
            for (long u = 0; u < at.U; ++u)
                for_tiles<GATE_ROWS>(rows.begin, rows.end, [&](long b, auto R) { cell(task, at, layer, t, b, u, R); });
            if (task.masks)
                for (long b = rows.begin; b < rows.end; ++b) drop(task, at, layer, t * task.B + b);
        }
    for (long t = 0; t < task.T; ++t) head(task, at, t, rows);
}
