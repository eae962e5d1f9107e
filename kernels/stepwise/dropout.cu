/* dropout.cu: out = source * mask, for one layer's output (forward) or for the gradient of what it became (backward).
 * source, out [T,B,H] of one layer, with BH = B*H; they may be the same array
 * layer, seed, threshold, first_row, batch, scale: which mask; dropout.cuh
 * steps, progress in: the number of the training step
 * One thread per element, ceil(BH / 256) blocks for each time step. Reference: cuchar/philox.py, dropout_mask
 */
#include "common/dropout.cuh"
#include "common/step.cuh"

extern "C" __global__ void __launch_bounds__(256) apply_dropout(
    const real* source, real* out, int BH, int H, int layer, unsigned long long seed, unsigned threshold,
    int first_row, int batch, real scale, const Step* steps, const Progress* progress) {
    const int blocks = (BH + 255) / 256, t = blockIdx.x / blocks;
    const int number = blockIdx.x % blocks * 256 + threadIdx.x;  // of the element, in the time step
    if (number >= BH) return;
    const Dropout dropout = {seed, steps[progress->now.index].number, threshold, first_row, batch, scale};
    const long long at = static_cast<long long>(t) * BH + number;
    out[at] = source[at] * dropout_factor(dropout, layer, dropout.row(t, 0) * H + number);
}
