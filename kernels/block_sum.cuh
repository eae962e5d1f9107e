/* block_sum.cuh: one number from a block of 256 threads, added in the same order every time. */
#pragma once

#include "real.cuh"

/* The sum of `value` over the block, in every thread. scratch: 8 numbers of shared memory, free before and after. */
template <class Number>
__device__ Number block_sum(Number value, Number* scratch) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    Number sum = 0;
    for (int warp = 0; warp < 8; ++warp) sum += scratch[warp];
    __syncthreads();
    return sum;
}
