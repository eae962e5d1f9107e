/* block_sum.cuh: the sum of one number of each of a block's 256 threads, added in the same order every time. */
#pragma once

#include "common/real.cuh"

/* Returns to every thread the sum of all threads' `value`: first over each warp, then over the eight warps, both times
 * by warp_sum's tree. All 256 threads call it. scratch: 8 numbers of shared memory that nobody uses until all have
 * returned.
 */
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
