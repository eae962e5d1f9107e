/* block_sum.cuh: one number from a block of 256 threads, added in the same order every time. */
#pragma once

#include "common/real.cuh"

/* The sum of `value` over the block, in every thread. scratch: 8 numbers of shared memory, free before and after. */
template <class Number>
__device__ Number block_sum(Number value, Number* scratch) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = scratch[threadIdx.x % 8];
#pragma unroll
    for (int distance = 4; distance; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
    __syncthreads();
    return value;
}
