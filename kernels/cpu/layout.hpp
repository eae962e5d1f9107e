/* cpu/layout.hpp: what Python tells a call (`Task`), where each tensor lies (`Layout`), and how the parameters are
 * halved, where that is due, and packed into the weights that the products read (`fold`).
 * Since sigmoid(x) = tanh(x/2)/2 + 1/2, gates i, f and o are computed from half of their pre-activation: for forward,
 * `fold` halves their rows of the weights and biases.
 */
#pragma once

#include "cpu/product.hpp"
#include "cpu/thread_pool.hpp"

/* One call's sizes and arrays: a window [T,B], or in sampling one time step of B streams. The fields of `Task` in
 * cuchar/engines/cpu/library.py are these in the same order; `Tape` in cuchar/engines/cpu/engine.py makes the arrays,
 * which are C-contiguous. Rows of H or V numbers are padded to whole vectors, Hp or Vp numbers (see Layout).
 */
struct Task {
    long V, H, L, T, B, threads;
    const real* parameters;       // flat, in the order of cuchar/parameters.py
    real* weights;                // what `fold` makes of them, where Layout says
    const std::int32_t* inputs;   // [T,B]
    const std::int32_t* targets;  // [T,B]; nullptr where only logits are wanted
    real *h, *c;                  // [L,T+1,B,Hp]: time step t reads h[l][t] and c[l][t] and writes those of t+1
    real* gates;                  // [L,T,B,4,Hp]: i,f,g,o, which backward replaces by da; nullptr for forward alone
    real *masks, *dropped;        // [L,T,B,Hp]: dropout's factors, and h times them; nullptr without dropout
    real* logits;                 // [T,B,Vp]: replaced by dlogits where there is a backward
    real* losses;                 // [T,B]
    real* dc;                     // [B,Hp]: f*dc, which a time step leaves for the one before
    real* token_sums;             // [min(V, T*B),4,Hp]: scratch for layer 0's gradients, see gradients.hpp
    real* gradients;              // as parameters
    std::uint64_t seed, step;     // of dropout's masks; `step` is the training step
    double dropout;               // the probability that a unit is dropped
    double weight_dropout;        // the probability that a recurrent weight is dropped
    long first_row, batch;        // the B rows are rows first_row, first_row+1, ... of a batch whose mask they take
};

/* Offsets of the tensors, in the flat parameters and in the folded weights. */
struct Layout {
    long V, H, L;
    long U;       // vectors that hold the H units
    long Hp, Vp;  // H and V, padded to whole vectors
    Panels unit_panels, vocabulary_panels;  // of matrices with a column for each unit, or for each of the V characters

    explicit Layout(const Task& task)
        : V(task.V), H(task.H), L(task.L), U(vectors(H)), Hp(U * LANES), Vp(vectors(V) * LANES), unit_panels(H),
          vocabulary_panels(V) {}

    /* What a layer hands on to the next or to the head, [T,B,Hp]: h, or with dropout h times the factors. */
    const real* output(const Task& task, long layer) const {
        return task.masks ? task.dropped + layer * task.T * task.B * Hp
                          : task.h + (layer * (task.T + 1) + 1) * task.B * Hp;
    }

    /* Where these begin in the flat parameters: W_ih [4H,V or H], W_hh [4H,H] and b [4H] of a layer, W [V,H] and b [V]
     * of the head.
     */
    long inputs(long layer) const { return layer ? 4 * H * (V + H + 1) + (layer - 1) * 4 * H * (2 * H + 1) : 0; }
    long recurrent(long layer) const { return inputs(layer) + 4 * H * (layer ? H : V); }
    long bias(long layer) const { return recurrent(layer) + 4 * H * H; }
    long head() const { return inputs(L); }
    long head_bias() const { return head() + V * H; }

    /* Where these begin in the weights. A layer above 0 begins with its bias, [4,Hp]. Layer 0 begins with what each
     * character adds to the pre-activations, bias included: [V,4,Hp]. Then, for forward and for backward each, come the
     * panels of W_hh and, above layer 0, those of W_ih. After the layers come the head's two and its bias.
     */
    long forward_size() const { return U * H * 4 * LANES; }
    long backward_size() const { return unit_panels.size(4 * H); }
    long layer_start(long layer) const {
        return layer ? 4 * V * Hp + forward_size() + backward_size() +
                           (layer - 1) * (4 * Hp + 2 * forward_size() + 2 * backward_size())
                     : 0;
    }
    long recurrent_forward(long layer) const { return layer_start(layer) + (layer ? 4 * Hp : 4 * V * Hp); }
    long recurrent_backward(long layer) const { return recurrent_forward(layer) + forward_size(); }
    long inputs_forward(long layer) const { return recurrent_backward(layer) + backward_size(); }
    long inputs_backward(long layer) const { return inputs_forward(layer) + forward_size(); }
    long head_forward() const { return layer_start(L); }
    long head_backward() const { return head_forward() + vocabulary_panels.size(H); }
    long head_bias_row() const { return head_backward() + unit_panels.size(V); }
    long size() const { return head_bias_row() + vocabulary_panels.count * vocabulary_panels.width * LANES; }
};

/* What job `index` of `jobs` has of `count` things. */
struct Share {
    long begin, end;
    Share(long count, long index, long jobs) : begin(count * index / jobs), end(count * (index + 1) / jobs) {}
    static Share all(long count) { return Share(count, 0, 1); }
};

/* Cuts rows into as few parts as possible, of at most ROWS_AT_ONCE rows and as equal as they can be, and calls
 * call(first row, number of rows) for each.
 */
template <class Call>
inline void for_rows(Share rows, Call call) {
    const long count = rows.end - rows.begin, parts = (count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    for (long index = 0; index < parts; ++index) {
        const Share part(count, index, parts);
        call(rows.begin + part.begin, part.end - part.begin);
    }
}

/* Packs vector u of the units of a matrix [4H, K]: four vectors, which are the units' four gates, in one or two panels. */
inline void fold_forward(const Layout& layout, real* to, const real* from, long K, long u) {
    for (int first = 0; first < 4; first += TILE_VECTORS)
        pack_transposed(to + (4 * u + first) * K * LANES, K, TILE_VECTORS, [&](long p, long lane) {
            const long gate = first + p, unit = u * LANES + lane;
            const real* const row = unit < layout.H ? from + (gate * layout.H + unit) * K : nullptr;
            return std::pair(row, real(gate == 2 ? 1 : 0.5));
        });
}

/* Packs one panel of a matrix [4H, H] for a product over its 4H rows, with da, which has no halving in it. */
inline void fold_backward(const Layout& layout, real* to, const real* from, long panel_index) {
    pack(
        to + panel_index * 4 * layout.H * layout.unit_panels.width * LANES, from, 4 * layout.H, layout.H,
        layout.unit_panels, panel_index);
}

/* Packs one job's parameters into the weights, of as many jobs as there are threads; what only backward reads, where it
 * is asked for.
 */
inline void fold(const Task& task, long job, bool with_backward) {
    const Layout layout(task);
    const long H = layout.H, V = layout.V;
    real* const weights = task.weights;
    const Share vectors_of_units(layout.U, job, task.threads);
    const Share panels(layout.unit_panels.count, job, task.threads);
    for (long layer = 0; layer < layout.L; ++layer) {
        const real* const W_ih = task.parameters + layout.inputs(layer);
        const real* const W_hh = task.parameters + layout.recurrent(layer);
        const real* const bias = task.parameters + layout.bias(layer);
        for (long u = vectors_of_units.begin; u < vectors_of_units.end; ++u) {
            fold_forward(layout, weights + layout.recurrent_forward(layer), W_hh, H, u);
            if (layer) fold_forward(layout, weights + layout.inputs_forward(layer), W_ih, H, u);
            for (long gate = 0; gate < 4; ++gate)
                for (long unit = u * LANES; unit < (u + 1) * LANES; ++unit) {
                    real* to = weights + layout.layer_start(layer) + gate * layout.Hp + unit;
                    const real scale = gate == 2 ? 1 : 0.5;
                    const long row = gate * H + unit;
                    if (layer) {
                        *to = unit < H ? bias[row] * scale : 0;
                    } else {
                        for (long v = 0; v < V; ++v, to += 4 * layout.Hp)
                            *to = unit < H ? (W_ih[row * V + v] + bias[row]) * scale : 0;
                    }
                }
        }
        for (long panel_index = panels.begin; with_backward && panel_index < panels.end; ++panel_index) {
            fold_backward(layout, weights + layout.recurrent_backward(layer), W_hh, panel_index);
            if (layer) fold_backward(layout, weights + layout.inputs_backward(layer), W_ih, panel_index);
        }
    }
    const real* const W = task.parameters + layout.head();
    const Share head_panels(layout.vocabulary_panels.count, job, task.threads);
    for (long panel_index = head_panels.begin; panel_index < head_panels.end; ++panel_index) {
        const long width = layout.vocabulary_panels.width;
        pack_transposed(
            weights + layout.head_forward() + panel_index * H * width * LANES, H, width, [&](long p, long lane) {
                const long v = (panel_index * width + p) * LANES + lane;
                return std::pair(v < V ? W + v * H : nullptr, real(1));
            });
        pack(
            weights + layout.head_bias_row() + panel_index * width * LANES, task.parameters + layout.head_bias(), 1, V,
            layout.vocabulary_panels, panel_index);
    }
    for (long panel_index = panels.begin; with_backward && panel_index < panels.end; ++panel_index)
        pack(
            weights + layout.head_backward() + panel_index * V * layout.unit_panels.width * LANES, W, V, H,
            layout.unit_panels, panel_index);
}
