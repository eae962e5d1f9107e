/* lstm_backward.cuh: backward for one batch row: all layers and time steps, by one block or one cluster.
 *   da and dc from dh' and dc': cell.cuh
 *   dh' = W_hh^T da of the time step after + what comes from above: sequence.dh for the last layer,
 *         mask * W_ih^T da of the layer above for the others
 * Reads parameters, c, gates and dh; writes da where the gates were. Shapes: Sequence.
 * Thread assignment: wavefront.cuh and Columns. In a recurrent stage two lanes, 4 apart, share a unit: both compute dc,
 * the first lane da_i and da_g, the second da_f and da_o.
 * cell.cuh has the formulas, but they are arranged differently here: the factors of dh' and dc are computed before dh'
 * has come, so that afterwards one fused multiply-add and one multiplication are left of each chain, and a lane
 * computes only its own two gates. Factors are multiplied in another order than in cell.cuh, so last bits differ.
 * Sums: what comes from above, plus the product as Columns adds it. No order depends on timing, so runs repeat exactly.
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
    const int column = is_unit(unit) ? unit : 0;  // every lane computes, so that a time step is one piece of code
    const int bytes = uniform(sequence.B * H * static_cast<int>(sizeof(real)));  // from one t to the next in h and c

    // The tape, from its end to its beginning, copied AHEAD time steps before it is used: i, f, g, o, c, dh'.
    real* gates = sequence.gates + 4 * sequence.output_at(layer, 0) + column;
    const real* cs = sequence.c + sequence.state_at(layer, 0) + column;
    const real* dhs = sequence.dh + sequence.output_at(0, 0) + column;
    real(*tape)[FETCH_NUMBERS][TEAM] = fetched.numbers[stage.working ? layer : 0];
    const auto fetch = [&](unsigned time_step) {
        if (time_step < T && is_unit(unit)) {  // a lane without one would copy what another overwrites
            const int t = T - 1 - time_step;
            real(*to)[TEAM] = tape[time_step % FETCH_SLOTS];
            const real* in = advance(gates, t, 4 * bytes);
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) copy_async(&to[gate][stage.thread], in + gate * H);
            copy_async(&to[4][stage.thread], advance(cs, t, bytes));
            copy_async(&to[5][stage.thread], advance(dhs, t, bytes));
        }
        commit_copies();
    };
    real c_before = *advance(cs, T, bytes), dc_next = 0;  // the cell before the time step that was last done; dc'

    Columns matrix;
    if (stage.working) {
        const long long at = stage.recurrent ? weight_hh_at(layer) : weight_ih_at(layer);
        matrix.load(sequence.parameters + at, stage.warp, stage.lane);
    }
    if (stage.recurrent && stage.working)
        for (int time_step = 0; time_step < AHEAD; ++time_step) fetch(time_step);
    clear(exchange);

    // `offset` is where the vector of da that is read next begins. A recurrent stage reads the da of the t after and,
    // once its product is done, writes its own at the other offset; a projection reads this t's.
    constexpr int OTHER_PARITY = 8 * STRIDE;
    const int gate = second_lane;  // this lane's first gate; its second is gate + 2
    real* vectors = exchange.vectors[layer][0];
    int offset = stage.recurrent == (T % 2 == 0) ? 0 : OTHER_PARITY;

    run(exchange, stage, T, H * sizeof(real), [&](unsigned time_step) {
        if (!stage.recurrent) {
            real dx = matrix.product(vectors + offset, stage.lane);
            offset = OTHER_PARITY - offset;
            if (!writes || second_lane) return;
            if (DROPOUT)
                dx *= dropout_factor(sequence.dropout, layer - 1, sequence.element_at(T - 1 - time_step) + unit);
            hand_over(exchange, layer, time_step, 0, unit, dx);
            return;
        }
        wait_copies<AHEAD - 1>();
        __syncwarp();  // a unit's two lanes copy the same gates, and each overwrites two of them
        const real(*now)[TEAM] = tape[time_step % FETCH_SLOTS];
        const real i = now[0][stage.thread], f = now[1][stage.thread], g = now[2][stage.thread];
        const real o = now[3][stage.thread], tanh_c = tanh(c_before);
        real dh = now[5][stage.thread];
        c_before = now[4][stage.thread];
        const real through = o * (1 - tanh_c * tanh_c), forget = f;
        const real factor1 = second_lane ? c_before * f * (1 - f) : g * i * (1 - i);
        const real factor2 = second_lane ? tanh_c * o * (1 - o) : i * (1 - g * g);
        const real sum = matrix.product(vectors + offset, stage.lane);
        if (layer < L - 1) received(exchange, layer + 1, time_step, column, dh);
        dh += sum;
        offset = OTHER_PARITY - offset;
        const real dc = fma(dh, through, dc_next), da1 = dc * factor1, da2 = (second_lane ? dh : dc) * factor2;
        dc_next = dc * forget;
        if (writes) {
            vectors[offset + vector_index(unit, gate)] = da1;
            vectors[offset + vector_index(unit, gate + 2)] = da2;
            real* out = advance(gates, T - 1 - time_step, 4 * bytes) + gate * H;
            out[0] = da1;
            out[2 * H] = da2;
        }
        fetch(time_step + AHEAD);
    });
    wait_copies<0>();
    sync_row();
}
