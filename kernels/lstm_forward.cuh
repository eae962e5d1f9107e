/* lstm_forward.cuh: one batch row through all layers and steps, by one block or one cluster.
 *   a = W_ih x + W_hh h + b   i,f,o = sigmoid(a_i, a_f, a_o)   g = tanh(a_g)   c' = f*c + i*g   h' = o*tanh(c')
 * A unit is two lanes', 16 apart: the low one has i and g, the high one f, o, c and h.
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer
 */
#pragma once

#include "wavefront.cuh"

__device__ __forceinline__ void lstm_forward(const Sequence& sequence, Exchange& exchange) {
    const Stage stage = my_stage(block_rank());
    const int layer = stage.layer, T = sequence.T, B = sequence.B;
    const bool high = stage.lane & 16;
    const int unit = 16 * stage.warp + stage.lane % 16;
    const bool writes = stage.working && unit < H, keeps = writes && high && stage.recurrent;
    clear(exchange);

    Rows matrix;
    real bias1 = 0, bias2 = 0, c = 0;
    const int gate1 = high ? H + unit : unit, gate2 = gate1 + 2 * H;
    if (stage.working) {
        const long long at = stage.recurrent ? weight_hh_at(layer) : weight_ih_at(layer);
        matrix.load(sequence.parameters + at, unit, high);
        if (writes && (layer == 0 || !stage.recurrent)) {
            bias1 = sequence.parameters[bias_at(layer) + gate1];
            bias2 = sequence.parameters[bias_at(layer) + gate2];
        }
    }
    if (keeps) {
        const long long first = sequence.state_at(layer, 0) + unit, last = sequence.state_at(layer, T) + unit;
        const real h = sequence.carry ? sequence.h[last] : real(0);
        c = sequence.carry ? sequence.c[last] : real(0);
        sequence.h[first] = exchange.vectors[layer][1][place(unit)] = h;
        sequence.c[first] = c;
    }
    __syncthreads();

    // Layer 0's input is a row of its table, fetched a step ahead; which row, two steps ahead.
    real x1 = 0, x2 = 0;
    int id = 0;
    const bool looks_up = writes && stage.number == 0;
    auto look_up = [&](int character) {
        const real* row = sequence.parameters + weight_ih_at(0) + static_cast<long long>(character) * 4 * H;
        x1 = row[gate1] + bias1;
        x2 = row[gate2] + bias2;
    };
    if (looks_up) {
        look_up(sequence.inputs[sequence.b]);
        id = sequence.inputs[min(1, T - 1) * B + sequence.b];
    }

    run(exchange, stage, T, 2 * GROUP * sizeof(real), [&](int t) {
        real first, second;
        if (!stage.recurrent) {
            const real* below = exchange.vectors[layer - 1][t % 2] + (DROPOUT ? DROPPED : 0);
            matrix.product(below, high, first, second);
            hand_over(exchange, layer, t, 1, 2 * stage.thread, first + bias1, second + bias2);
            return;
        }
        real input1 = x1, input2 = x2;
        if (looks_up) {
            look_up(id);
            id = sequence.inputs[static_cast<long long>(min(t + 2, T - 1)) * B + sequence.b];
        }
        matrix.product(exchange.vectors[layer][(t + 1) % 2], high, first, second);
        if (layer) {
            const real* in = received(exchange, layer, t) + 2 * stage.thread;
            input1 = in[0];
            input2 = in[1];
        }
        first = sigmoid(first + input1);
        second = activate(second + input2, high ? real(0.5) : real(1));
        const real new_memory = __shfl_xor_sync(~0u, first * second, 16);  // i*g, where it is wanted
        if (!writes) return;
        if (high) {
            c = fma(first, c, new_memory);
            const real h = second * tanh(c);
            exchange.vectors[layer][t % 2][place(unit)] = h;
            const long long at = sequence.state_at(layer, t + 1) + unit;
            sequence.h[at] = h;
            sequence.c[at] = c;
            if (DROPOUT && layer < L - 1) {
                const long long element = (static_cast<long long>(t) * B + sequence.b) * H + unit;
                const real dropped = h * dropout_factor(sequence.dropout, layer, element);
                exchange.vectors[layer][t % 2][DROPPED + place(unit)] = dropped;
                sequence.dropped[sequence.output_at(layer, t) + unit] = dropped;
            }
        }
        real* gates = sequence.gates + 4 * sequence.output_at(layer, t);
        gates[gate1] = first;
        gates[gate2] = second;
    });
}
