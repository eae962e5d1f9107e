/* cpu/layout.hpp: what a call is told, and the weights as the products want them. */
#pragma once

#include "cpu/product.hpp"
#include "cpu/team.hpp"

/* One window, or a part of one: cuchar/engines/cpu_kernels.py, Task, and cpu_engine.py, Tape. Arrays are C-contiguous. */
struct Task {
    long V, H, L, T, B, threads;
    const real* parameters;         // flat, in the order of parameters.py
    real* weights;                  // Layout's, made of them by fold
    const std::int32_t *inputs, *targets;  // [T,B]; targets nullptr: logits only
    real *h, *c;                    // [L,T+1,B,U*LANES]; h[l][t] enters step t
    real* gates;                    // [L,T,B,4,U*LANES]: i,f,g,o, then da; nullptr: no way back
    real *masks, *dropped;          // [L,T,B,U*LANES]: factors of dropout, and h times them; nullptr: none
    real* logits;                   // [T,B,vectors(V)*LANES], then dlogits
    real* losses;                   // [T,B]
    real *dc, *token_sums;          // [B,U*LANES]; [min(V, T*B),4,U*LANES]
    real* gradients;                // as parameters
    std::uint64_t seed, step;       // dropout's
    double dropout;                 // probability
};

/* Where things are: tensors in the flat buffer, panels in `weights`. */
struct Layout {
    long V, H, L, U, Hp, Vp;  // U vectors hold a row of H; Hp, Vp: padded
    Panels units, characters;  // of matrices with a column a unit, or a character

    explicit Layout(const Task& task)
        : V(task.V), H(task.H), L(task.L), U(vectors(H)), Hp(U * LANES), Vp(vectors(V) * LANES), units(H), characters(V) {}

    /* [T,B,Hp]: what a layer hands on to the next, or to the head. */
    const real* output(const Task& task, long layer) const {
        return task.masks ? task.dropped + layer * task.T * task.B * Hp : task.h + (layer * (task.T + 1) + 1) * task.B * Hp;
    }

    /* In the flat buffer. */
    long inputs(long layer) const { return layer ? 4 * H * (V + H + 1) + (layer - 1) * 4 * H * (2 * H + 1) : 0; }
    long recurrent(long layer) const { return inputs(layer) + 4 * H * (layer ? H : V); }
    long bias(long layer) const { return recurrent(layer) + 4 * H * H; }
    long head() const { return inputs(L); }
    long head_bias() const { return head() + V * H; }

    /* In `weights`. A layer's bias comes first: [4,Hp]; in layer 0 it is in the rows of the characters, [V,4,Hp]. */
    long forward_size() const { return U * H * 4 * LANES; }
    long backward_size() const { return units.size(4 * H); }
    long first(long layer) const {
        return layer ? 4 * V * Hp + forward_size() + backward_size() + (layer - 1) * (4 * Hp + 2 * forward_size() + 2 * backward_size()) : 0;
    }
    long recurrent_forward(long layer) const { return first(layer) + (layer ? 4 * Hp : 4 * V * Hp); }
    long recurrent_backward(long layer) const { return recurrent_forward(layer) + forward_size(); }
    long inputs_forward(long layer) const { return recurrent_backward(layer) + backward_size(); }
    long inputs_backward(long layer) const { return inputs_forward(layer) + forward_size(); }
    long head_forward() const { return first(L); }
    long head_backward() const { return head_forward() + characters.size(H); }
    long head_bias_row() const { return head_backward() + units.size(V); }
    long size() const { return head_bias_row() + characters.count * characters.width * LANES; }
};

/* A thread's share of what is counted 0..count-1. */
struct Share {
    long begin, end;
    Share(long count, long thread, long threads) : begin(count * thread / threads), end(count * (thread + 1) / threads) {}
};

/* [4H, K] -> panels of a vector of units with its four gates; i, f and o are halved, since sigmoid(x) = tanh(x/2)/2 + 1/2. */
inline void fold_forward(const Layout& at, real* to, const real* from, long K, long u) {
    pack_transposed(to + u * K * 4 * LANES, K, 4, [&](long gate, long lane) {
        const long unit = u * LANES + lane;
        return std::pair(unit < at.H ? from + (gate * at.H + unit) * K : nullptr, real(gate == 2 ? 1 : 0.5));
    });
}

/* [4H, H] -> panels over H whose k runs through the units of the four gates. */
inline void fold_backward(const Layout& at, real* to, const real* from, long number) {
    pack(to + number * 4 * at.H * at.units.width * LANES, from, 4 * at.H, at.H, at.units, number);
}

/* A thread's share of the way from parameters to weights. */
inline void fold(const Task& task, int thread, bool way_back) {
    const Layout at(task);
    const long H = at.H, V = at.V;
    real* const weights = task.weights;
    const Share vectors_of_units(at.U, thread, task.threads), panels(at.units.count, thread, task.threads);
    for (long layer = 0; layer < at.L; ++layer) {
        const real* const W_ih = task.parameters + at.inputs(layer);
        const real* const W_hh = task.parameters + at.recurrent(layer);
        const real* const bias = task.parameters + at.bias(layer);
        for (long u = vectors_of_units.begin; u < vectors_of_units.end; ++u) {
            fold_forward(at, weights + at.recurrent_forward(layer), W_hh, H, u);
            if (layer) fold_forward(at, weights + at.inputs_forward(layer), W_ih, H, u);
            for (long gate = 0; gate < 4; ++gate)
                for (long unit = u * LANES; unit < (u + 1) * LANES; ++unit) {
                    real* to = weights + at.first(layer) + gate * at.Hp + unit;
                    const real scale = gate == 2 ? 1 : 0.5;
                    const long row = gate * H + unit;
                    if (layer) *to = unit < H ? bias[row] * scale : 0;
                    else
                        for (long v = 0; v < V; ++v, to += 4 * at.Hp) *to = unit < H ? (W_ih[row * V + v] + bias[row]) * scale : 0;
                }
        }
        for (long number = panels.begin; way_back && number < panels.end; ++number) {
            fold_backward(at, weights + at.recurrent_backward(layer), W_hh, number);
            if (layer) fold_backward(at, weights + at.inputs_backward(layer), W_ih, number);
        }
    }
    const real* const W = task.parameters + at.head();
    const Share head(at.characters.count, thread, task.threads);
    for (long number = head.begin; number < head.end; ++number) {
        const long width = at.characters.width;
        pack_transposed(weights + at.head_forward() + number * H * width * LANES, H, width, [&](long p, long lane) {
            const long v = (number * width + p) * LANES + lane;
            return std::pair(v < V ? W + v * H : nullptr, real(1));
        });
        pack(weights + at.head_bias_row() + number * width * LANES, task.parameters + at.head_bias(), 1, V, at.characters, number);
    }
    for (long number = panels.begin; way_back && number < panels.end; ++number)
        pack(weights + at.head_backward() + number * V * at.units.width * LANES, W, V, H, at.units, number);
}
