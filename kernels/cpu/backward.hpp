/* cpu/backward.hpp: back-propagation through time, from dlogits to da of every layer, for one job's batch rows.
 *   dh = factors * (W_above^T da_above) + W_hh^T da_next         (for the last layer: W^T dlogits, with the head's W)
 *   dc = dh*o*(1 - tanh(c')^2) + f_next*dc_next
 *   da_i = dc*g*i*(1-i)    da_f = dc*c*f*(1-f)    da_g = dc*i*(1-g^2)    da_o = dh*tanh(c')*o*(1-o)
 * c enters the time step and c' leaves it; `next` is of the time step after; factors are dropout's. da takes the place
 * of the gates that it was computed from. Shapes are in layout.hpp; n = t*B + b numbers the characters of a window.
 * A product with da is summed gate after gate, each as product.hpp says, and the two products are then added. The order
 * depends neither on the tile nor on the number of threads.
 */
#pragma once

#include "cpu/layout.hpp"

/* 1 - x^2, by `fused`. */
inline Lanes one_minus_square(Lanes x) { return fused(-x, x, all(1)); }

/* da at time step t, for batch rows b..b+rows-1, ROWS_AT_ONCE at most, and the units of one panel of P vectors. */
template <int P>
inline void cell_back(
    const Task& task, const Layout& layout, long layer, long t, long b, long rows, long panel_index, Number<P>) {
    const long H = layout.H, Hp = layout.Hp, n = t * task.B + b, N = task.T * task.B;
    const real* const weights = task.weights;
    real* const gates = task.gates + (layer * N + n) * 4 * Hp;
    const auto add_product = [&](real* sums, const real* da, const real* panels) {
        for (long gate = 0; gate < 4; ++gate)
            multiply<P>(
                sums, P * LANES, da + gate * Hp, 4 * Hp, rows, panels + (panel_index * 4 + gate) * H * P * LANES, H);
    };
    real above[ROWS_AT_ONCE * P * LANES], recurrent[ROWS_AT_ONCE * P * LANES];
    std::fill_n(above, rows * P * LANES, real(0));
    std::fill_n(recurrent, rows * P * LANES, real(0));
    if (layer + 1 == layout.L) {
        multiply<P>(
            above, P * LANES, task.logits + n * layout.Vp, layout.Vp, rows,
            weights + layout.head_backward() + panel_index * layout.V * P * LANES, layout.V);
    } else {
        add_product(above, gates + N * 4 * Hp, weights + layout.inputs_backward(layer + 1));
    }
    if (t + 1 < task.T) add_product(recurrent, gates + task.B * 4 * Hp, weights + layout.recurrent_backward(layer));
    for (long r = 0; r < rows; ++r)
        for (int p = 0; p < P && panel_index * P + p < layout.U; ++p) {
            const long unit = (panel_index * P + p) * LANES;
            const real* c = task.c + (layer * (N + task.B) + n + r) * Hp + unit;  // c' is B rows further on
            real* const gate = gates + r * 4 * Hp + unit;
            real* const carried = task.dc + (b + r) * Hp + unit;  // f_next*dc_next, then f*dc
            const Lanes i = load(gate), f = load(gate + Hp), g = load(gate + 2 * Hp), o = load(gate + 3 * Hp);
            Lanes dh = load(above + (r * P + p) * LANES);
            if (task.masks) dh *= load(task.masks + (layer * N + n + r) * Hp + unit);
            dh += load(recurrent + (r * P + p) * LANES);
            const Lanes tanh_c = tanh(load(c + task.B * Hp));
            Lanes dc = dh * o * one_minus_square(tanh_c);
            if (t + 1 < task.T) dc += load(carried);
            store(carried, dc * f);
            store(gate, dc * g * (i * (1 - i)));
            store(gate + Hp, dc * load(c) * (f * (1 - f)));
            store(gate + 2 * Hp, dc * i * one_minus_square(g));
            store(gate + 3 * Hp, dh * tanh_c * (o * (1 - o)));
        }
}

/* From the last layer to the first, each from the last time step to the first. */
inline void backward(const Task& task, const Layout& layout, Share batch_rows) {
    with<TILE_VECTORS>(layout.unit_panels.width, [&](auto P) {
        for (long layer = layout.L - 1; layer >= 0; --layer)
            for (long t = task.T - 1; t >= 0; --t)
                for_rows(batch_rows, [&](long b, long rows) {
                    for (long panel_index = 0; panel_index < layout.unit_panels.count; ++panel_index)
                        cell_back(task, layout, layer, t, b, rows, panel_index, P);
                });
    });
}
