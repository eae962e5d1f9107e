/* cell.cu: the pointwise half of one LSTM step, forward and backward, around GEMMs.
 *   i,f,o = sigmoid(a_i, a_f, a_o)   g = tanh(a_g)     c' = f*c + i*g     h' = o*tanh(c')
 *   dc = dh'*o*(1 - tanh(c')^2) + dc'                  (dc': from the step after; leaves as f*dc)
 *   da_i = dc*g*i*(1-i)   da_f = dc*c*f*(1-f)   da_g = dc*i*(1-g^2)   da_o = dh'*tanh(c')*o*(1-o)
 * One thread per (b,unit); no atomics, so runs repeat exactly.
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer, _backward_layer
 */
#include "common/real.cuh"
#include "common/step.cuh"

/* gates [B,4,H] in: W_hh h, and W_ih x unless there is a table; out: the activated gates, kept for backward.
 * bias [4H]; table [V,4H] with inputs [B] of this step (a chunk of T*B ids a training step), or null.
 * c, c_next, h_next [B,H].
 */
extern "C" __global__ void __launch_bounds__(256) cell_forward(
    real* gates, const real* bias, const real* table, const int* inputs, const Progress* progress, int N,
    const real* c, real* c_next, real* h_next, int B, int H) {
    const int element = blockIdx.x * 256 + threadIdx.x;
    if (element >= B * H) return;
    const int b = element / H, unit = element % H;
    real* a = gates + static_cast<long long>(b) * 4 * H + unit;
    const real* x = table ? table + static_cast<long long>(inputs[static_cast<long long>(progress->now.index) * N + b]) * 4 * H + unit : nullptr;
    real activated[4];
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
        real sum = a[gate * H] + bias[gate * H + unit];
        if (x) sum += x[gate * H];
        activated[gate] = activate(sum, gate == 2 ? real(1) : real(0.5));
        a[gate * H] = activated[gate];
    }
    const real next = activated[1] * c[element] + activated[0] * activated[2];
    c_next[element] = next;
    h_next[element] = activated[3] * tanh(next);
}

/* gates [B,4,H] in: activated; out: da. dh [B,H]: all that reaches h'. dc [B,H] in and out; `is_last` step: dc' is 0. */
extern "C" __global__ void __launch_bounds__(256) cell_backward(
    real* gates, const real* c, const real* c_next, const real* dh, real* dc, int is_last, int B, int H) {
    const int element = blockIdx.x * 256 + threadIdx.x;
    if (element >= B * H) return;
    real* gate = gates + static_cast<long long>(element / H) * 4 * H + element % H;
    const real i = gate[0], f = gate[H], g = gate[2 * H], o = gate[3 * H];
    const real tanh_c = tanh(c_next[element]), through_h = dh[element];
    const real through_c = through_h * o * (1 - tanh_c * tanh_c) + (is_last ? real(0) : dc[element]);
    gate[0] = through_c * g * i * (1 - i);
    gate[H] = through_c * c[element] * f * (1 - f);
    gate[2 * H] = through_c * i * (1 - g * g);
    gate[3 * H] = through_h * tanh_c * o * (1 - o);
    dc[element] = through_c * f;
}
