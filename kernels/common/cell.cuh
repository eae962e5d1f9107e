/* cell.cuh: the LSTM cell of one hidden unit and batch row, forward and backward: the formulas, for all kernels.
 *
 * Forward, from the activated gates, i,f,o = sigmoid(a_i, a_f, a_o) and g = tanh(a_g), and c of the time step before:
 *   c' = f*c + i*g     h' = o*tanh(c')
 * Backward, from dh', the gradient that reaches h', and dc', the one that reaches c' from the time step after:
 *   dc = dh'*o*(1 - tanh(c')^2) + dc'
 *   da_i = dc*g*i*(1-i)   da_f = dc*c*f*(1-f)   da_g = dc*i*(1-g^2)   da_o = dh'*tanh(c')*o*(1-o)
 *   f*dc is the gradient that reaches c, which the time step before takes as its dc'
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer, _backward_layer
 */
#pragma once

#include "common/real.cuh"

/* One number for each gate, in the order of the weights. */
struct Gates {
    real i, f, g, o;
};

struct CellState {
    real c, h;
};

/* Returns c' and h'. c: of the time step before. */
__device__ __forceinline__ CellState next_state(const Gates& gates, real c) {
    const real next = gates.f * c + gates.i * gates.g;
    return {next, gates.o * tanh(next)};
}

/* Returns dc. tanh_c: tanh(c'); dh: dh'; dc_after: dc'. */
__device__ __forceinline__ real cell_gradient(const Gates& gates, real tanh_c, real dh, real dc_after) {
    return dh * gates.o * (1 - tanh_c * tanh_c) + dc_after;
}

/* Writes the gradients of the gates' pre-activations to da[0], da[H], da[2 * H] and da[3 * H], in the order of Gates.
 * dh: dh'; dc: what cell_gradient has returned. c: of the time step before; it is a reference because reading it where
 * it is used takes fewer registers.
 */
__device__ __forceinline__ void write_gate_gradients(
    const Gates& gates, const real& c, real tanh_c, real dh, real dc, real* da, int H) {
    const real i = gates.i, f = gates.f, g = gates.g, o = gates.o;
    da[0] = dc * g * i * (1 - i);
    da[H] = dc * c * f * (1 - f);
    da[2 * H] = dc * i * (1 - g * g);
    da[3 * H] = dh * tanh_c * o * (1 - o);
}
