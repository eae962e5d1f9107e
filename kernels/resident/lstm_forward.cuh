/* lstm_forward.cuh: forward for one batch row: all layers and time steps, by one block or one cluster.
 *   a = W_ih x + W_hh h + b     i,f,o = sigmoid(a_i, a_f, a_o)     g = tanh(a_g)     c', h': cell.cuh
 * Reads parameters, inputs and, with carry, the state in slot T; writes h and c (all slots), gates and, with DROPOUT,
 * dropped. Shapes: Sequence.
 * Thread assignment: wavefront.cuh and Rows. In a recurrent stage two lanes, 16 apart, share a unit: the low lane
 * computes i and g, the high lane f, o, c and h. The cell is spelt out here rather than called from cell.cuh because of
 * that division. Each pre-activation is the stage's own sum over k, plus (what the stage before handed over, or the row
 * of layer 0's table, plus the bias). No order depends on timing, so runs repeat exactly.
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer
 */
#pragma once

#include "resident/wavefront.cuh"

__device__ __forceinline__ void lstm_forward(const Sequence& sequence, Exchange& exchange, Fetched& fetched) {
    const Stage stage = my_stage(block_rank());
    const int layer = stage.layer, T = sequence.T, B = sequence.B, thread = stage.thread;
    const bool high = stage.lane & 16;
    const int unit = 16 * stage.warp + stage.lane % 16;
    const int gate = high ? H + unit : unit;  // this lane's first gate in [4H]; its second is 2 * H further
    const bool writes = stage.working && is_unit(unit), keeps = writes && high && stage.recurrent;  // keeps: c and h
    const int bytes = uniform(B * H * static_cast<int>(sizeof(real)));  // from one time step to the next in h and c

    // Layer 0's input is a row of its table, copied AHEAD time steps before it is used. The other layers copy it too,
    // and do not look at it: fewer branches are worth more than fewer copies.
    const real* table = sequence.parameters + weight_ih_at(0) + (is_unit(unit) ? gate : 0);
    const int* ids = sequence.inputs + sequence.b;
    real(*inputs)[FETCH_NUMBERS][TEAM] = fetched.numbers[stage.working ? layer : 0];
    const auto id_at = [&](int t) { return *advance(ids, min(t, T - 1), B * static_cast<int>(sizeof(int))); };
    const auto look_up = [&](int id, unsigned t) {
        const real* row = advance(table, id, 4 * H * sizeof(real));
        copy_async(&inputs[t % FETCH_SLOTS][0][thread], row);
        copy_async(&inputs[t % FETCH_SLOTS][1][thread], row + 2 * H);
        commit_copies();
    };
    const int id0 = id_at(0), id1 = id_at(1);
    int id = CLUSTER > 1 ? id_at(AHEAD) : 0;  // for the next look-up; read a time step early where registers allow it
    static_assert(AHEAD == 2, "the look-ups before the loop are those of time steps 0 and 1");

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
        h = *advance(hs, T, bytes);
        c = *advance(cs, T, bytes);
    }
    if (stage.working && stage.recurrent) {
        look_up(id0, 0);
        look_up(id1, 1);
    }
    clear(exchange);
    if (keeps) {
        hs[0] = h;
        exchange.vectors[layer][1][vector_index(unit)] = h;
        cs[0] = c;
    }
    __syncthreads();

    // `offset` is where this time step's vector of h begins. A recurrent stage reads the h of the time step before at
    // offset and, once its product is done, writes its own at the other one; a projection reads this time step's.
    constexpr int OTHER_PARITY = 8 * STRIDE;
    const int of_layer = stage.recurrent ? layer : layer - 1;
    real* vectors = exchange.vectors[of_layer][0] + (DROPOUT && !stage.recurrent ? DROPPED : 0);
    int offset = stage.recurrent ? OTHER_PARITY : 0;
    real* gates = sequence.gates + 4 * sequence.output_at(layer, 0) + gate;
    real* droppeds = sequence.dropped + sequence.output_at(layer, 0) + unit;

    run(exchange, stage, T, 2 * TEAM * sizeof(real), [&](unsigned t) {
        real first, second;
        if (!stage.recurrent) {
            matrix.product(vectors + offset, high, first, second);
            hand_over(exchange, layer, t, 1, 2 * thread, first + bias1, second + bias2);
            offset = OTHER_PARITY - offset;
            return;
        }
        wait_copies<AHEAD - 1>();
        real input1 = inputs[t % FETCH_SLOTS][0][thread], input2 = inputs[t % FETCH_SLOTS][1][thread];
        if (CLUSTER == 1) id = id_at(t + AHEAD);
        matrix.product(vectors + offset, high, first, second);
        if (layer) received(exchange, layer, t, 2 * thread, input1, input2);
        offset = OTHER_PARITY - offset;
        const real gate1 = sigmoid(first + (input1 + bias1));  // i, or f in the high lane
        const real gate2 = activate(second + (input2 + bias2), high ? real(0.5) : real(1));  // g, or o
        const real new_memory = __shfl_xor_sync(~0u, gate1 * gate2, 16);  // i*g, which the high lane wants
        c = fma(gate1, c, new_memory);  // all lanes compute c and h, of use in the high ones only
        h = gate2 * tanh(c);
        look_up(id, t + AHEAD);
        if (CLUSTER > 1) id = id_at(t + AHEAD + 1);
        if (keeps) vectors[offset + vector_index(unit)] = h;
        if (DROPOUT && keeps) {
            const real dropped = h * dropout_factor(sequence.dropout, layer, sequence.element_at(t) + unit);
            vectors[offset + DROPPED + vector_index(unit)] = dropped;
            *advance(droppeds, t, bytes) = dropped;
        }
        if (writes) {
            gates[0] = gate1;
            gates[2 * H] = gate2;
        }
        gates = advance(gates, 4, bytes);
        hs = advance(hs, 1, bytes);
        cs = advance(cs, 1, bytes);
        if (keeps) {
            *hs = h;
            *cs = c;
        }
    });
    wait_copies<0>();
    sync_row();
}
