/* lstm_forward.cuh: one batch row through all layers and steps, by one block or one cluster.
 *   a = W_ih x + W_hh h + b   i,f,o = sigmoid(a_i, a_f, a_o)   g = tanh(a_g)   c' = f*c + i*g   h' = o*tanh(c')
 * A unit is two lanes', 16 apart: the low one has i and g, the high one f, o, c and h.
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer
 */
#pragma once

#include "resident/wavefront.cuh"

__device__ __forceinline__ void lstm_forward(const Sequence& sequence, Exchange& exchange, Fetched& fetched) {
    const Stage stage = my_stage(block_rank());
    const int layer = stage.layer, T = sequence.T, B = sequence.B, thread = stage.thread;
    const bool high = stage.lane & 16;
    const int unit = 16 * stage.warp + stage.lane % 16, gate = high ? H + unit : unit;  // and gate + 2 * H
    const bool writes = stage.working && is_unit(unit), keeps = writes && high && stage.recurrent;
    const int bytes = uniform(B * H * static_cast<int>(sizeof(real)));  // from one step to the next in h and c

    // Layer 0's input is a row of its table, copied AHEAD steps before it is used. The other layers copy it too, and do
    // not look at it: fewer branches are worth more than fewer copies.
    const real* table = sequence.parameters + weight_ih_at(0) + (is_unit(unit) ? gate : 0);
    const int* ids = sequence.inputs + sequence.b;
    real(*inputs)[FETCHED][GROUP] = fetched.numbers[stage.working ? layer : 0];
    const auto id_at = [&](int t) { return *steps_after(ids, min(t, T - 1), B * static_cast<int>(sizeof(int))); };
    const auto look_up = [&](int id, unsigned t) {
        const real* row = steps_after(table, id, 4 * H * sizeof(real));
        copy_async(&inputs[t % SLOTS][0][thread], row);
        copy_async(&inputs[t % SLOTS][1][thread], row + 2 * H);
        commit_copies();
    };
    const int id0 = id_at(0), id1 = id_at(1);
    int id = CLUSTER > 1 ? id_at(AHEAD) : 0;  // of the next look-up, read a step early where registers allow it
    static_assert(AHEAD == 2, "the first ids");

    Rows matrix;
    real bias1 = 0, bias2 = 0, h = 0, c = 0;
    if (stage.working) {
        const long long at = stage.recurrent ? weight_hh_at(layer) : weight_ih_at(layer);
        matrix.load(sequence.parameters + at, unit, high);
        if (writes && (layer == 0 || !stage.recurrent)) {
            bias1 = sequence.parameters[bias_at(layer) + gate];
            bias2 = sequence.parameters[bias_at(layer) + gate + 2 * H];
        }
    }
    real *hs = sequence.h + sequence.state_at(layer, 0) + unit, *cs = sequence.c + sequence.state_at(layer, 0) + unit;
    if (keeps && sequence.carry) {
        h = *steps_after(hs, T, bytes);
        c = *steps_after(cs, T, bytes);
    }
    if (stage.working && stage.recurrent) {
        look_up(id0, 0);
        look_up(id1, 1);
    }
    clear(exchange);
    if (keeps) exchange.vectors[layer][1][place(unit)] = hs[0] = h, cs[0] = c;
    __syncthreads();

    // A recurrent stage reads the h of the step before and writes into the other half; a projection reads this step's.
    constexpr int HALF = 8 * STRIDE;
    real* vectors = exchange.vectors[stage.recurrent ? layer : layer - 1][0] + (DROPOUT && !stage.recurrent ? DROPPED : 0);
    int from = stage.recurrent ? HALF : 0;
    real* gates = sequence.gates + 4 * sequence.output_at(layer, 0) + gate;
    real* droppeds = sequence.dropped + sequence.output_at(layer, 0) + unit;

    run(exchange, stage, T, 2 * GROUP * sizeof(real), [&](unsigned t) {
        real first, second;
        if (!stage.recurrent) {
            matrix.product(vectors + from, high, first, second);
            hand_over(exchange, layer, t, 1, 2 * thread, first + bias1, second + bias2);
            from = HALF - from;
            return;
        }
        wait_copies<AHEAD - 1>();
        real input1 = inputs[t % SLOTS][0][thread], input2 = inputs[t % SLOTS][1][thread];
        if (CLUSTER == 1) id = id_at(t + AHEAD);
        matrix.product(vectors + from, high, first, second);
        if (layer) received(exchange, layer, t, 2 * thread, input1, input2);
        from = HALF - from;
        const real gate1 = sigmoid(first + (input1 + bias1));
        const real gate2 = activate(second + (input2 + bias2), high ? real(0.5) : real(1));
        const real new_memory = __shfl_xor_sync(~0u, gate1 * gate2, 16);  // i*g, where it is wanted
        c = fma(gate1, c, new_memory);  // of use in the high lanes, like h
        h = gate2 * tanh(c);
        look_up(id, t + AHEAD);
        if (CLUSTER > 1) id = id_at(t + AHEAD + 1);
        if (keeps) vectors[from + place(unit)] = h;
        if (DROPOUT && keeps) {
            const long long element = (static_cast<long long>(t) * B + sequence.b) * H + unit;
            const real dropped = h * dropout_factor(sequence.dropout, layer, element);
            vectors[from + DROPPED + place(unit)] = dropped;
            *steps_after(droppeds, t, bytes) = dropped;
        }
        if (writes) {
            gates[0] = gate1;
            gates[2 * H] = gate2;
        }
        gates = steps_after(gates, 4, bytes);
        hs = steps_after(hs, 1, bytes);
        cs = steps_after(cs, 1, bytes);
        if (keeps) {
            *hs = h;
            *cs = c;
        }
    });
    wait_copies<0>();
    sync_row();
}
