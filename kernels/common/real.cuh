/* real.cuh: the number type `real` (float unless the macro REAL says double), and functions of single numbers. */
#pragma once

#include "common/hardware.cuh"

#ifndef REAL
#define REAL float
#endif
using real = REAL;

constexpr real LOWEST = -3e38;  // below every logit; NVRTC knows no INFINITY

struct __align__(16) Four {
    real x, y, z, w;
};

__device__ __forceinline__ real sigmoid(real x) { return reciprocal(1 + exp(-x)); }

/* tanh(x) for scale 1, sigmoid(x) for scale 1/2: one instruction stream for lanes that want either. */
__device__ __forceinline__ real activate(real x, real scale) { return tanh(x * scale) * scale + (1 - scale); }

/* Returns to every lane the sum of all lanes' `value`. Lanes 16 apart are added first, then 8, 4, 2 and 1 apart: the
 * same order every time.
 */
template <class Number>
__device__ __forceinline__ Number warp_sum(Number value) {
#pragma unroll
    for (int distance = 16; distance; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
    return value;
}

/* Returns to every lane the largest of all lanes' `value`. */
__device__ __forceinline__ real warp_max(real value) {
#pragma unroll
    for (int distance = 16; distance; distance /= 2) value = max(value, __shfl_xor_sync(~0u, value, distance));
    return value;
}
