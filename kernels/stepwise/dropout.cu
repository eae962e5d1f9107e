/* dropout.cu: out = source * mask, for [T,B,H] of one layer's output (forward) or of its gradient (backward).
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
