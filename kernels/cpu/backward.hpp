/* cpu/backward.hpp: from dlogits down to da of every layer, for some of the batch rows; da takes the gates' place. */
#pragma once

#include "cpu/layout.hpp"

inline Lanes one_minus_square(Lanes x) { return fused(-x, x, all(1)); }

/* R rows of a panel of units at one step. */
template <int R, int P>
inline void cell_back(const Task& task, const Layout& at, long layer, long t, long b, long number, Number<R>, Number<P>) {
    const long Hp = at.Hp, row = t * task.B + b, N = task.T * task.B;
    const real* const weights = task.weights;
    real* const gates = task.gates + (layer * N + row) * 4 * Hp;
    const auto add = [&](Lanes (&sum)[R][P], const real* da, const real* panels) {  // of the four gates of a layer
        for (long gate = 0; gate < 4; ++gate)
            multiply<R, P>(sum, da + gate * Hp, 4 * Hp, panels + (number * 4 + gate) * at.H * P * LANES, at.H);
    };
    Lanes above[R][P] = {}, recurrent[R][P] = {};
    if (layer + 1 == at.L)
        multiply<R, P>(above, task.logits + row * at.Vp, at.Vp, weights + at.head_backward() + number * at.V * P * LANES, at.V);
    else
        add(above, gates + N * 4 * Hp, weights + at.inputs_backward(layer + 1));
    if (t + 1 < task.T) add(recurrent, gates + task.B * 4 * Hp, weights + at.recurrent_backward(layer));
    for (int p = 0; p < P && number * P + p < at.U; ++p)
        for (int r = 0; r < R; ++r) {
            const long unit = (number * P + p) * LANES;
            const real* c = task.c + (layer * (N + task.B) + row + r) * Hp + unit;
            real* const gate = gates + r * 4 * Hp + unit;
            real* const carried = task.dc + (b + r) * Hp + unit;
            const Lanes i = load(gate), f = load(gate + Hp), g = load(gate + 2 * Hp), o = load(gate + 3 * Hp);
            if (task.masks) above[r][p] *= load(task.masks + (layer * N + row + r) * Hp + unit);
            const Lanes dh = above[r][p] + recurrent[r][p], tanh_c = tanh(load(c + task.B * Hp));
            Lanes dc = dh * o * one_minus_square(tanh_c);
            if (t + 1 < task.T) dc += load(carried);
            store(carried, dc * f);
            store(gate, dc * g * (i * (1 - i)));
            store(gate + Hp, dc * load(c) * (f * (1 - f)));
            store(gate + 2 * Hp, dc * i * one_minus_square(g));
            store(gate + 3 * Hp, dh * tanh_c * (o * (1 - o)));
        }
}

inline void backward(const Task& task, const Layout& at, Share rows) {
    for (long layer = at.L - 1; layer >= 0; --layer)
        for (long t = task.T - 1; t >= 0; --t)
            with<WIDTH>(at.units.width, [&](auto P) {
                for (long number = 0; number < at.units.count; ++number)
                    for_tiles<ROWS>(rows.begin, rows.end, [&](long b, auto R) { cell_back(task, at, layer, t, b, number, R, P); });
            });
}
