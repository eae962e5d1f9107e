/* lstm_backward.cuh: one batch row back through all layers and steps, by one block or one cluster.
 *   dc = dh'*o*(1 - tanh(c')^2) + dc'    (dc' from the step after, leaves as f*dc)
 *   da_i = dc*g*i*(1-i)   da_f = dc*c*f*(1-f)   da_g = dc*i*(1-g^2)   da_o = dh'*tanh(c')*o*(1-o)
 *   dh = W_hh^T da        dh' of the layer below += mask * W_ih^T da
 * da takes the gates' place. A unit is two lanes', 4 apart: the first has da_i and da_g, the second da_f and da_o.
 * Reference: numpy_engine._backward_layer
 */
#pragma once

#include "wavefront.cuh"

__device__ __forceinline__ void lstm_backward(const Sequence& sequence, Exchange& exchange) {
    const Stage stage = my_stage(CLUSTER - 1 - block_rank());
    const int layer = L - 1 - stage.number / 2, T = sequence.T;
    const bool second_lane = stage.lane & 4;
    const int unit = Columns::unit_of(stage.warp, stage.lane);
    const bool writes = stage.working && unit < H;

    Columns matrix;
    if (stage.working) {
        const long long at = stage.recurrent ? weight_hh_at(layer) : weight_ih_at(layer);
        matrix.load(sequence.parameters + at, stage.warp, stage.lane);
    }

    // The step's part of the tape, fetched a step ahead.
    real i = 0, f = 0, g = 0, o = 0, c = 0, c_before = 0, from_head = 0, dc_next = 0;
    const bool reads = writes && stage.recurrent;
    auto fetch = [&](int t) {
        const real* gates = sequence.gates + 4 * sequence.output_at(layer, t) + unit;
        i = gates[0], f = gates[H], g = gates[2 * H], o = gates[3 * H];
        c = c_before;
        c_before = sequence.c[sequence.state_at(layer, t) + unit];
        if (layer == L - 1) from_head = sequence.dh[sequence.output_at(0, t) + unit];
    };
    if (reads) {
        c_before = sequence.c[sequence.state_at(layer, T) + unit];
        fetch(T - 1);
    }
    clear(exchange);  // its barrier also stands between what a lane fetched and what the other lane of its unit writes

    run(exchange, stage, T, H * sizeof(real), [&](int step) {
        const int t = T - 1 - step;
        if (!stage.recurrent) {
            real dx = matrix.product(exchange.vectors[layer][t % 2], stage.lane);
            if (writes && !second_lane) {
                if (DROPOUT) {
                    const long long element = (static_cast<long long>(t) * sequence.B + sequence.b) * H + unit;
                    dx *= dropout_factor(sequence.dropout, layer - 1, element);
                }
                hand_over(exchange, layer, step, 0, unit, dx);
            }
            return;
        }
        const real tanh_c = tanh(c), through = o * (1 - tanh_c * tanh_c), forget = f;
        const real factor1 = second_lane ? c_before * f * (1 - f) : g * i * (1 - i);
        const real factor2 = second_lane ? tanh_c * o * (1 - o) : i * (1 - g * g);
        real dh = from_head;
        if (reads && t > 0) fetch(t - 1);
        const real recurrent = matrix.product(exchange.vectors[layer][(t + 1) % 2], stage.lane);
        if (layer < L - 1) dh = received(exchange, layer + 1, step)[unit < H ? unit : 0];
        dh += recurrent;
        const real dc = fma(dh, through, dc_next);
        const real da1 = dc * factor1, da2 = (second_lane ? dh : dc) * factor2;
        dc_next = dc * forget;
        if (!writes) return;
        const int gate = second_lane;
        real* vector = exchange.vectors[layer][t % 2];
        vector[place(unit, gate)] = da1;
        vector[place(unit, gate + 2)] = da2;
        real* gates = sequence.gates + 4 * sequence.output_at(layer, t) + unit;
        gates[gate * H] = da1;
        gates[(gate + 2) * H] = da2;
    });
}
