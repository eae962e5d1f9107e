/* lstm_backward.cuh: one batch row back through all layers and steps, by one block or one cluster.
 *   dc = dh'*o*(1 - tanh(c')^2) + dc'    (dc' from the step after, leaves as f*dc)
 *   da_i = dc*g*i*(1-i)   da_f = dc*c*f*(1-f)   da_g = dc*i*(1-g^2)   da_o = dh'*tanh(c')*o*(1-o)
 *   dh = W_hh^T da        dh' of the layer below += mask * W_ih^T da
 * da takes the gates' place. A unit is two lanes', 4 apart: the first has da_i and da_g, the second da_f and da_o.
 * Reference: numpy_engine._backward_layer
 */
#pragma once

#include "resident/wavefront.cuh"

__device__ __forceinline__ void lstm_backward(const Sequence& sequence, Exchange& exchange, Fetched& fetched) {
    const Stage stage = my_stage(CLUSTER - 1 - block_rank());
    const int layer = L - 1 - stage.number / 2, T = sequence.T;
    const bool second_lane = stage.lane & 4;
    const int unit = Columns::unit_of(stage.warp, stage.lane);
    const bool writes = stage.working && is_unit(unit);
    const int column = is_unit(unit) ? unit : 0;  // every lane computes, so that a step is one piece of code
    const int bytes = uniform(sequence.B * H * static_cast<int>(sizeof(real)));  // from one step to the next in h and c

    // The tape, from its end to its beginning, copied AHEAD steps before it is used.
    real* gates = sequence.gates + 4 * sequence.output_at(layer, 0) + column;
    const real* cs = sequence.c + sequence.state_at(layer, 0) + column;
    const real* dhs = sequence.dh + sequence.output_at(0, 0) + column;
    real(*tape)[FETCHED][GROUP] = fetched.numbers[stage.working ? layer : 0];
    const auto fetch = [&](unsigned step) {
        if (step < T && is_unit(unit)) {  // for others there is nothing to read that nobody overwrites
            const int t = T - 1 - step;
            real(*to)[GROUP] = tape[step % SLOTS];
            const real* in = steps_after(gates, t, 4 * bytes);
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) copy_async(&to[gate][stage.thread], in + gate * H);
            copy_async(&to[4][stage.thread], steps_after(cs, t, bytes));
            copy_async(&to[5][stage.thread], steps_after(dhs, t, bytes));
        }
        commit_copies();
    };
    real c_before = *steps_after(cs, T, bytes), dc_next = 0;

    Columns matrix;
    if (stage.working) {
        const long long at = stage.recurrent ? weight_hh_at(layer) : weight_ih_at(layer);
        matrix.load(sequence.parameters + at, stage.warp, stage.lane);
    }
    if (stage.recurrent && stage.working)
        for (int step = 0; step < AHEAD; ++step) fetch(step);
    clear(exchange);

    // A recurrent stage reads the da of the step after and writes into the other half; a projection reads this step's.
    constexpr int HALF = 8 * STRIDE;
    const int gate = second_lane;  // and gate + 2
    real* vectors = exchange.vectors[layer][0];
    int from = stage.recurrent == (T % 2 == 0) ? 0 : HALF;

    run(exchange, stage, T, H * sizeof(real), [&](unsigned step) {
        if (!stage.recurrent) {
            real dx = matrix.product(vectors + from, stage.lane);
            from = HALF - from;
            if (!writes || second_lane) return;
            if (DROPOUT) {
                const long long element = (static_cast<long long>(T - 1 - step) * sequence.B + sequence.b) * H + unit;
                dx *= dropout_factor(sequence.dropout, layer - 1, element);
            }
            hand_over(exchange, layer, step, 0, unit, dx);
            return;
        }
        wait_copies<AHEAD - 1>();
        __syncwarp();  // a unit's two lanes copy the same gates, and each overwrites two of them
        const real(*now)[GROUP] = tape[step % SLOTS];
        const real i = now[0][stage.thread], f = now[1][stage.thread], g = now[2][stage.thread];
        const real o = now[3][stage.thread], tanh_c = tanh(c_before);
        real dh = now[5][stage.thread];
        c_before = now[4][stage.thread];
        const real through = o * (1 - tanh_c * tanh_c), forget = f;
        const real factor1 = second_lane ? c_before * f * (1 - f) : g * i * (1 - i);
        const real factor2 = second_lane ? tanh_c * o * (1 - o) : i * (1 - g * g);
        const real sum = matrix.product(vectors + from, stage.lane);
        if (layer < L - 1) received(exchange, layer + 1, step, column, dh);
        dh += sum;
        from = HALF - from;
        const real dc = fma(dh, through, dc_next), da1 = dc * factor1, da2 = (second_lane ? dh : dc) * factor2;
        dc_next = dc * forget;
        if (writes) {
            vectors[from + place(unit, gate)] = da1;
            vectors[from + place(unit, gate + 2)] = da2;
            real* out = steps_after(gates, T - 1 - step, 4 * bytes) + gate * H;
            out[0] = da1;
            out[2 * H] = da2;
        }
        fetch(step + AHEAD);
    });
    wait_copies<0>();
    sync_row();
}
