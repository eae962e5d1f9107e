/* cpu/forward.hpp: the layers, dropout, the head and the loss, for one job's batch rows.
 *   a = W_ih x + W_hh h + b    i,f,o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)    c' = f*c + i*g    h' = o*tanh(c')
 *   logits = W y + b           loss = -log softmax(logits)[target]
 * In layer 0, W_ih x is the character's column of W_ih. Above it, x is the output of the layer below: its h', with
 * dropout times the factors. y is the last layer's output. Shapes are in layout.hpp; n = t*B + b numbers the characters
 * of a window.
 * A pre-activation is one sum over x and then over h, in the order that product.hpp tells, to which b is added last.
 * The sum of a softmax is taken as `cross_entropy` says. These orders depend neither on the tile, nor on the number of
 * threads, nor on the width of a vector.
 */
#pragma once

#include <cmath>
#include <limits>

#include "cpu/layout.hpp"

/* philox.cuh and softmax.cuh are written for CUDA: this is what they need of CUDA's language. */
#define __device__
#define __forceinline__ inline
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<std::uint64_t>(a) * b >> 32; }
using std::fma, std::log1p;
#include "common/philox.cuh"
#include "common/softmax.cuh"

/* sigmoid(x), given x/2. */
inline Lanes sigmoid_of_half(Lanes half) { return fused(tanh(half), all(0.5), all(0.5)); }

/* The cell at time step t, for batch rows b..b+rows-1, ROWS_AT_ONCE at most, and vector u of the units: the two products
 * for its four gates, and then the pointwise formulas. Writes c' and h', and for backward the gates.
 */
inline void cell(const Task& task, const Layout& layout, long layer, long t, long b, long rows, long u) {
    constexpr int P = TILE_VECTORS;  // a panel has 4 or 2 of the 4 gates of these units
    const long H = layout.H, Hp = layout.Hp, n = t * task.B + b, states = task.T * task.B + task.B, unit = u * LANES;
    const real* const weights = task.weights;
    real* const h = task.h + (layer * states + n) * Hp;  // h' is B rows further on
    real* const c = task.c + (layer * states + n) * Hp;
    real sums[ROWS_AT_ONCE * 4 * LANES];
    std::fill_n(sums, rows * 4 * LANES, real(0));
    for (int gate = 0; gate < 4; gate += P) {
        const long panel = (4 * u + gate) * H * LANES;
        if (layer)
            multiply<P>(
                sums + gate * LANES, 4 * LANES, layout.output(task, layer - 1) + n * Hp, Hp, rows,
                weights + layout.inputs_forward(layer) + panel, H);
        multiply<P>(
            sums + gate * LANES, 4 * LANES, h, Hp, rows, weights + layout.recurrent_forward(layer) + panel, H);
    }
    for (long r = 0; r < rows; ++r) {
        // The bias comes last, since most products are smaller than the forget gate's.
        const real* bias = weights + layout.layer_start(layer) + (layer ? 0 : task.inputs[n + r] * 4 * Hp) + unit;
        const auto held = [&](int gate) { return load(sums + (4 * r + gate) * LANES) + load(bias + gate * Hp); };
        const Lanes i = sigmoid_of_half(held(0)), f = sigmoid_of_half(held(1)), g = tanh(held(2));
        const Lanes o = sigmoid_of_half(held(3)), next = fused(f, load(c + r * Hp + unit), i * g);
        store(c + (task.B + r) * Hp + unit, next);
        store(h + (task.B + r) * Hp + unit, o * tanh(next));
        if (task.gates) {
            real* gates = task.gates + (layer * task.T * task.B + n + r) * 4 * Hp + unit;
            store(gates, i);
            store(gates + Hp, f);
            store(gates + 2 * Hp, g);
            store(gates + 3 * Hp, o);
        }
    }
}

/* Dropout's factors for a layer's output at time step t for batch row b, 0 or 1/(1 - probability), and the output times
 * them. An element, numbered as in [T,batch,H], is dropped where its word of philox(element/4, layer, training step;
 * seed) is below probability * 2^32.
 */
inline void drop(const Task& task, const Layout& layout, long layer, long t, long b) {
    const long n = t * task.B + b;
    const long offset = (layer * task.T * task.B + n) * layout.Hp;
    const real* h = task.h + (layer * (task.T + 1) * task.B + task.B + n) * layout.Hp;
    const std::uint32_t threshold = static_cast<std::uint32_t>(task.dropout * 4294967296.0);
    const real scale = 1 / (1 - task.dropout);
    const std::uint64_t first = static_cast<std::uint64_t>(t * task.batch + task.first_row + b) * layout.H;
    for (std::uint64_t element = first; element < first + layout.H;) {
        const Words words = philox(
            {static_cast<unsigned>(element / 4), static_cast<unsigned>(layer), static_cast<unsigned>(task.step),
             static_cast<unsigned>(task.step >> 32)}, task.seed);
        const unsigned word[] = {words.w0, words.w1, words.w2, words.w3};
        for (unsigned choice = element % 4; choice < 4 && element < first + layout.H; ++choice, ++element)
            task.masks[offset + element - first] = word[choice] >= threshold ? scale : 0;
    }
    for (long unit = 0; unit < layout.H; ++unit) task.dropped[offset + unit] = h[unit] * task.masks[offset + unit];
}

/* -log softmax(logits)[target] of one row of logits. With `with_backward`, the logits are replaced by the gradient of
 * the mean loss over the N characters, and else by scratch numbers. Formulas: softmax.cuh.
 * e[v] is added to partial sum v % PARTIAL_SUMS, in the order of v, and these are then added in their order: as many as
 * the widest vector has lanes, whichever vector there is.
 */
inline real cross_entropy(real* logits, long V, long target, long N, bool with_backward) {
    constexpr int PARTIAL_SUMS = 64 / sizeof(real), VECTORS = PARTIAL_SUMS / LANES;
    const long padded = vectors(V) * LANES;
    // What is not to be added gets an e of 0: the numbers that fill the row up to whole vectors, and then the target.
    std::fill(logits + V, logits + padded, std::numeric_limits<real>::lowest());
    Lanes largest_of_lane = load(logits);
    for (long v = LANES; v < padded; v += LANES) {
        const Lanes found = load(logits + v);
        largest_of_lane = found > largest_of_lane ? found : largest_of_lane;
    }
    real largest = largest_of_lane[0];
    for (int lane = 1; lane < LANES; ++lane) largest = largest_of_lane[lane] > largest ? largest_of_lane[lane] : largest;
    const real chosen = logits[target], of_target = exp_of_difference(all(chosen), all(largest))[0];
    logits[target] = std::numeric_limits<real>::lowest();
    Sum<Lanes> partial[VECTORS] = {};
    for (long v = 0; v < padded; v += PARTIAL_SUMS)
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; ++i)
            if (v + i * LANES < padded) {
                const Lanes found = exp_of_difference(load(logits + v + i * LANES), all(largest));
                store(logits + v + i * LANES, found);
                partial[i] += found;
            }
    Sum<real> others = {};
    for (const Sum<Lanes>& sums : partial)
        for (int lane = 0; lane < LANES; ++lane) others += Sum<real>{sums.high[lane], sums.low[lane]};
    const Softmax softmax(others, of_target, N);
    if (with_backward) {
        for (long v = 0; v < padded; v += LANES) {
            const Lanes found = load(logits + v);
            const Lanes product = fused(found, all(softmax.scale), found * softmax.scale_low);
            store(logits + v, product * Softmax::DOWN);  // which is softmax.of(e) of each e found
        }
        logits[target] = softmax.target_gradient;
    }
    return softmax.loss(largest - chosen);
}

/* The logits of batch rows b..b+rows-1, ROWS_AT_ONCE at most, at time step t, for the characters of a panel of P vectors. */
template <int P>
inline void logits_of(
    const Task& task, const Layout& layout, long t, long b, long rows, long panel_index, Number<P>) {
    const real* const bias = task.weights + layout.head_bias_row() + panel_index * P * LANES;
    const real* const panel = task.weights + layout.head_forward() + panel_index * layout.H * P * LANES;
    const real* const output = layout.output(task, layout.L - 1) + (t * task.B + b) * layout.Hp;
    real* const logits = task.logits + (t * task.B + b) * layout.Vp + panel_index * P * LANES;
    real sums[ROWS_AT_ONCE * P * LANES];
    std::fill_n(sums, rows * P * LANES, real(0));
    multiply<P>(sums, P * LANES, output, layout.Hp, rows, panel, layout.H);
    for (long r = 0; r < rows; ++r)
        for (int p = 0; p < P && (panel_index * P + p) * LANES < layout.Vp; ++p)
            store(logits + r * layout.Vp + p * LANES, load(sums + (r * P + p) * LANES) + load(bias + p * LANES));
}

/* The cells of a layer at one time step, for some vectors of its units. */
inline void cells(const Task& task, const Layout& layout, long layer, long t, Share batch_rows, Share units) {
    for_rows(batch_rows, [&](long b, long rows) {
        for (long u = units.begin; u < units.end; ++u) cell(task, layout, layer, t, b, rows, u);
    });
}

/* The logits of one time step, for some panels of the vocabulary. */
inline void logits(const Task& task, const Layout& layout, long t, Share batch_rows, Share panels) {
    with<TILE_VECTORS>(layout.vocabulary_panels.width, [&](auto P) {
        for_rows(batch_rows, [&](long b, long rows) {
            for (long panel_index = panels.begin; panel_index < panels.end; ++panel_index)
                logits_of(task, layout, t, b, rows, panel_index, P);
        });
    });
}

/* The losses of one time step. */
inline void losses(const Task& task, const Layout& layout, long t, Share batch_rows) {
    for (long n = t * task.B + batch_rows.begin; n < t * task.B + batch_rows.end; ++n)
        task.losses[n] = cross_entropy(
            task.logits + n * layout.Vp, layout.V, task.targets[n], task.T * task.B, task.gates);
}

/* Layer after layer, each through all time steps, and then the head for all time steps. */
inline void forward(const Task& task, const Layout& layout, Share batch_rows) {
    for (long layer = 0; layer < layout.L; ++layer)
        for (long t = 0; t < task.T; ++t) {
            cells(task, layout, layer, t, batch_rows, Share::all(layout.U));
            if (task.masks)
                for (long b = batch_rows.begin; b < batch_rows.end; ++b) drop(task, layout, layer, t, b);
        }
    for (long t = 0; t < task.T; ++t) {
        logits(task, layout, t, batch_rows, Share::all(layout.vocabulary_panels.count));
        if (task.targets) losses(task, layout, t, batch_rows);
    }
}

/* What `forward` does, for all batch rows and without dropout, where there are fewer rows than threads: a job is some of
 * a layer's units, or some panels of the vocabulary, and threads wait for each other at every time step of a layer.
 */
inline void forward_by_units(const Task& task, const Layout& layout) {
    const Share batch_rows = Share::all(task.B);
    const auto divide = [&](long count, const auto& work) {
        const long jobs = std::min(count, task.threads);
        ThreadPool::run(task.threads, jobs, [&](long job) { work(Share(count, job, jobs)); });
    };
    for (long layer = 0; layer < layout.L; ++layer)
        for (long t = 0; t < task.T; ++t)
            divide(layout.U, [&](Share units) { cells(task, layout, layer, t, batch_rows, units); });
    divide(layout.vocabulary_panels.count, [&](Share panels) {
        for (long t = 0; t < task.T; ++t) logits(task, layout, t, batch_rows, panels);
    });
    if (task.targets)
        divide(task.T, [&](Share steps) {
            for (long t = steps.begin; t < steps.end; ++t) losses(task, layout, t, batch_rows);
        });
}
