/* draw.cuh: draws one id from a stream's logits [V], V up to 65,536, by WARPS warps of a block.
 *   p = softmax(logits / temperature), or softmax(exp(min(logits / temperature, 700))) for the law "exp"
 *   top_k: only the k likeliest ids keep their p, the others' becomes 0
 *   top_p: only the fewest likeliest ids whose p together reach top_p keep theirs
 *   min_p: only ids at least min_p times as likely as the likeliest one keep theirs
 *   id = the first at which the sum of p over all ids up to it reaches uniform * (the sum of all p)
 * Of two ids the likelier is the one with the larger logit as a float, or, if they are equal, the lower id.
 * top_k, top_p and the draw are the same search (`reach`): for the largest key such that the sum over everything at or
 * above it reaches a goal. It finds the key bit by bit, so nothing is sorted. Every such sum is added in the same order,
 * whatever is left out of it, so that it cannot shrink when more is in it; hence the id that is drawn never has p = 0.
 * Thread assignment: a thread has every DRAW_THREADS-th id.
 * Sums: a thread's own first, in double precision, then warp_sum or block_sum.
 * Source: Holtzman et al. 2020 for top_p, Nguyen et al. 2024 for min_p. Reference: cuchar/sampling.py, draw
 */
#pragma once

#include "common/block_sum.cuh"

#ifndef WARPS
#define WARPS 1
#endif
static_assert(WARPS == 1 || WARPS == 8, "expected 1 warp, or the 8 that block_sum adds over");
constexpr int DRAW_THREADS = 32 * WARPS;

/* How characters are drawn. */
struct Law {
    int is_exp;       // 1 for the law "exp", 0 for "softmax"
    int top_k;        // 0: off; 1: always the likeliest
    double coldness;  // 1 / temperature
    double top_p;     // 1: off
    double min_p;     // 0: off
};

constexpr int ID_BITS = 16, RANK_BITS = 32 + ID_BITS;  // of a key that orders ids by likelihood: the logit, then the id
constexpr double NOT_FINITE = 1.7e308;  // stands for a logit that is not finite

/* The sum, and the largest, of all drawing threads' `value`, in every one of them. */
__device__ __forceinline__ double draw_sum(double value, double* scratch) {
    return WARPS == 1 ? warp_sum(value) : block_sum(value, scratch);
}

__device__ __forceinline__ double draw_max(double value, double* scratch) {
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

/* The largest key such that the weights of all v whose key(v) is at or above it reach `goal`; 0 where they never do.
 * A key has `bits` bits; the search decides the highest first.
 */
template <class Key, class Weight>
__device__ __forceinline__ unsigned long long reach(
    double goal, int bits, int V, double* scratch, Key key, Weight weight) {
    unsigned long long found = 0;
#pragma unroll 1
    for (int bit = bits - 1; bit >= 0; --bit) {
        const unsigned long long candidate = found | 1ull << bit;
        double sum = 0;
#pragma unroll 1
        for (int v = threadIdx.x; v < V; v += DRAW_THREADS)
            if (key(v) >= candidate) sum += weight(v);
        if (draw_sum(sum, scratch) >= goal) found = candidate;
    }
    return found;
}

/* The key that orders ids by likelihood: the larger, the likelier. */
__device__ __forceinline__ unsigned long long rank_of(real logit, int v) {
    const unsigned bits = __float_as_uint(logit == 0 ? 0.0f : static_cast<float>(logit));  // -0 is 0
    const unsigned ordered = bits >> 31 ? ~bits : bits | 1u << 31;
    return static_cast<unsigned long long>(ordered) << ID_BITS | (~v & 0xFFFF);
}

/* The id that is drawn, or -1 where a logit is not finite. The first WARPS warps of a block call it; all get the
 * result. uniform: the random number, in (0, 1); logits [V] in; p [V]: scratch, of which each thread uses only its own
 * numbers; scratch: eight numbers of shared memory where WARPS is 8, else unused.
 */
__device__ __forceinline__ int draw(
    const Law& law, double uniform, const real* logits, double* p, int V, double* scratch) {
    double largest = -NOT_FINITE;
#pragma unroll 1
    for (int v = threadIdx.x; v < V; v += DRAW_THREADS)
        largest = max(largest, isfinite(logits[v]) ? static_cast<double>(logits[v]) : NOT_FINITE);
    largest = draw_max(largest, scratch);
    if (largest == NOT_FINITE) return -1;

    double most = largest * law.coldness;
    const auto update = [&](auto change) {
#pragma unroll 1
        for (int v = threadIdx.x; v < V; v += DRAW_THREADS) p[v] = change(v);
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
        for (int v = threadIdx.x; v < V; v += DRAW_THREADS) sum += p[v];
        return draw_sum(sum, scratch);
    };
    const auto weight = [&](int v) { return p[v]; };
    const auto rank = [&](int v) { return rank_of(logits[v], v); };
    const auto keep = [&](unsigned long long least) { update([&](int v) { return rank(v) < least ? 0 : p[v]; }); };
    if (law.top_k) keep(reach(law.top_k, RANK_BITS, V, scratch, rank, [](int) { return 1.0; }));
    if (law.top_p < 1) keep(reach(law.top_p * total(), RANK_BITS, V, scratch, rank, weight));
    if (law.min_p > 0) update([&](int v) { return p[v] < law.min_p ? 0 : p[v]; });  // the likeliest id's p is 1
    const auto backwards = [&](int v) { return static_cast<unsigned long long>(V - 1 - v); };
    const int bits = 32 - __clz(V - 1);  // of the largest id
    return V - 1 - static_cast<int>(reach(uniform * total(), bits, V, scratch, backwards, weight));
}
