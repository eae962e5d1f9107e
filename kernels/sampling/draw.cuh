/* draw.cuh: one id from a stream's logits [V], V up to 65,536, by WARPS warps of a block.
 *   p = softmax(logits / temperature), or softmax(exp(min(logits / temperature, 700))) for the law "exp"
 *   top_k: p of all but the k likeliest is 0     top_p: p of all but the fewest likeliest that reach top_p is 0
 *   id = the first up to which the sum of p reaches uniform * (the sum of all)
 * Likelier: the larger logit as a float, of equal ones the lower id.
 * All three look for a key, bit by bit, such that what is at or above it reaches a goal. Nothing is sorted, and every
 * sum is added in the same order whatever is left out of it, so that it only grows with what is in it: p of id is not 0.
 * Source: Holtzman et al. 2020 for top_p. Reference: cuchar/sampling.py
 */
#pragma once

#include "common/block_sum.cuh"

#ifndef WARPS
#define WARPS 1
#endif
static_assert(WARPS == 1 || WARPS == 8, "one, or block_sum's eight");
constexpr int DRAWING = 32 * WARPS;  // threads

struct Law {
    int is_exp, top_k;       // top_k 0: off; 1: argmax
    double coldness, top_p;  // coldness: 1 / temperature
};

constexpr int ID_BITS = 16, RANK_BITS = 32 + ID_BITS;
constexpr double NOT_FINITE = 1.7e308;  // in place of a logit that is none

__device__ __forceinline__ double team_sum(double value, double* scratch) {
    return WARPS == 1 ? warp_sum(value) : block_sum(value, scratch);
}

__device__ __forceinline__ double team_max(double value, double* scratch) {
#pragma unroll
    for (int distance = 16; distance; distance /= 2) value = max(value, __shfl_xor_sync(~0u, value, distance));
    if (WARPS > 1) {
        if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
        __syncthreads();
        for (int warp = 0; warp < WARPS; ++warp) value = max(value, scratch[warp]);
        __syncthreads();
    }
    return value;
}

/* The largest key such that the weights of all keys at or above it reach `goal`; 0 where they never do. */
template <class Key, class Weight>
__device__ __forceinline__ unsigned long long reach(double goal, int bits, int V, double* scratch, Key key, Weight weight) {
    unsigned long long found = 0;
#pragma unroll 1
    for (int bit = bits - 1; bit >= 0; --bit) {
        const unsigned long long candidate = found | 1ull << bit;
        double sum = 0;
#pragma unroll 1
        for (int v = threadIdx.x; v < V; v += DRAWING)
            if (key(v) >= candidate) sum += weight(v);
        if (team_sum(sum, scratch) >= goal) found = candidate;
    }
    return found;
}

/* The larger, the likelier. */
__device__ __forceinline__ unsigned long long rank_of(real logit, int v) {
    const unsigned bits = __float_as_uint(logit == 0 ? 0.0f : static_cast<float>(logit));  // -0 is 0
    const unsigned ordered = bits >> 31 ? ~bits : bits | 1u << 31;
    return static_cast<unsigned long long>(ordered) << ID_BITS | (~v & 0xFFFF);
}

/* By the first WARPS warps of a block; -1 where a logit is not finite.
 * p: V numbers to work with, each one thread's own; scratch: eight of shared memory where WARPS is 8.
 */
__device__ __forceinline__ int draw(
    const Law& law, double uniform, const real* logits, double* p, int V, double* scratch) {
    double largest = -NOT_FINITE;
#pragma unroll 1
    for (int v = threadIdx.x; v < V; v += DRAWING)
        largest = max(largest, isfinite(logits[v]) ? static_cast<double>(logits[v]) : NOT_FINITE);
    largest = team_max(largest, scratch);
    if (largest == NOT_FINITE) return -1;

    double most = largest * law.coldness;
    const auto update = [&](auto change) {
#pragma unroll 1
        for (int v = threadIdx.x; v < V; v += DRAWING) p[v] = change(v);
    };
    update([&](int v) { return logits[v] * law.coldness; });
    if (law.is_exp) {
        most = exp(min(most, 700.0));
        update([&](int v) { return exp(min(p[v], 700.0)); });
    }
    update([&](int v) { return exp(p[v] - most); });
    const auto total = [&] {
        double sum = 0;
#pragma unroll 1
        for (int v = threadIdx.x; v < V; v += DRAWING) sum += p[v];
        return team_sum(sum, scratch);
    };
    const auto weight = [&](int v) { return p[v]; };
    const auto rank = [&](int v) { return rank_of(logits[v], v); };
    const auto keep = [&](unsigned long long least) { update([&](int v) { return rank(v) < least ? 0 : p[v]; }); };
    if (law.top_k) keep(reach(law.top_k, RANK_BITS, V, scratch, rank, [](int) { return 1.0; }));
    if (law.top_p < 1) keep(reach(law.top_p * total(), RANK_BITS, V, scratch, rank, weight));
    const auto backwards = [&](int v) { return static_cast<unsigned long long>(V - 1 - v); };
    const int bits = 32 - __clz(V - 1);  // of the largest id
    return V - 1 - static_cast<int>(reach(uniform * total(), bits, V, scratch, backwards, weight));
}
