/* cell.cu: the pointwise half of one time step of one LSTM layer, between products of matrices; formulas: cell.cuh.
 * One thread per (b,unit), which is one `element` of [B,H]; nothing is summed over threads, so runs repeat exactly.
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer, _backward_layer
 */
#include "common/cell.cuh"
#include "common/step.cuh"

/* Adds bias and input, activates the gates, and makes the next c and h.
 * gates [B,4,H] in: W_hh h, plus W_ih x unless there is a table; out: the activated gates, which backward needs
 * bias [4H] in
 * table [V,4H] in: layer 0's W_ih transposed, whose row of a character is W_ih x; null for other layers
 * inputs [B] in: the characters of this time step in the chunk's first window, N = T*B before those in the next window;
 *   null where there is no table
 * progress in: which window of the chunk this is
 * c [B,H] in; c_next, h_next [B,H] out
 */
extern "C" __global__ void __launch_bounds__(256) cell_forward(
    real* gates, const real* bias, const real* table, const int* inputs, const Progress* progress, int N,
    const real* c, real* c_next, real* h_next, int B, int H) {
    const int element = blockIdx.x * 256 + threadIdx.x;
    if (element >= B * H) return;
    const int b = element / H, unit = element % H;
    real* a = gates + static_cast<long long>(b) * 4 * H + unit;
    const real* x = nullptr;
    if (table) {
        const int id = inputs[static_cast<long long>(progress->now.index) * N + b];
        x = table + static_cast<long long>(id) * 4 * H + unit;
    }
    real activated[4];
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
        real sum = a[gate * H] + bias[gate * H + unit];
        if (x) sum += x[gate * H];
        activated[gate] = activate(sum, gate == 2 ? real(1) : real(0.5));
        a[gate * H] = activated[gate];
    }
    const CellState next = next_state({activated[0], activated[1], activated[2], activated[3]}, c[element]);
    c_next[element] = next.c;
    h_next[element] = next.h;
}

/* Turns activated gates into the gradients of their pre-activations.
 * gates [B,4,H] in: activated; out: da
 * c, c_next [B,H] in: before and after this time step
 * dh [B,H] in: all gradients that reach h', from the layer above and from the time step after
 * dc [B,H] in: dc', which counts as 0 where is_last, the window's last time step; out: f*dc
 */
extern "C" __global__ void __launch_bounds__(256) cell_backward(
    real* gates, const real* c, const real* c_next, const real* dh, real* dc, int is_last, int B, int H) {
    const int element = blockIdx.x * 256 + threadIdx.x;
    if (element >= B * H) return;
    real* gate = gates + static_cast<long long>(element / H) * 4 * H + element % H;
    const Gates activated = {gate[0], gate[H], gate[2 * H], gate[3 * H]};
    const real tanh_c = tanh(c_next[element]), through_h = dh[element];
    const real through_c = cell_gradient(activated, tanh_c, through_h, is_last ? real(0) : dc[element]);
    write_gate_gradients(activated, c[element], tanh_c, through_h, through_c, gate, H);
    dc[element] = through_c * activated.f;
}
