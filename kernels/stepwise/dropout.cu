/* dropout.cu: out = source * mask, for one layer's output (forward) or for the gradient of what it became (backward).
 * source, out [T,B,H] of one layer: `size` numbers; they may be the same array
 * layer, seed, threshold, scale: which mask; dropout.cuh
 * steps, progress in: the number of the training step
 * One thread per element. Reference: cuchar/philox.py, dropout_mask
 */
#include "common/dropout.cuh"
#include "common/step.cuh"

extern "C" __global__ void __launch_bounds__(256) apply_dropout(
    const real* source, real* out, long long size, int layer, unsigned long long seed, unsigned threshold, real scale,
    const Step* steps, const Progress* progress) {
    const long long element = blockIdx.x * 256ll + threadIdx.x;
    if (element >= size) return;
    const Dropout dropout = {seed, steps[progress->now.index].number, threshold, scale};
    out[element] = source[element] * dropout_factor(dropout, layer, element);
}
