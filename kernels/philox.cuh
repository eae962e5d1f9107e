/* philox.cuh: dropout's random numbers, a function of (seed, step, layer, element) and of nothing else.
 * Source: Salmon, Moraes, Dror, Shaw 2011 (Philox4x32-10). Reference: cuchar/philox.py
 */
#pragma once

#include "real.cuh"

struct Dropout {
    unsigned long long seed, step;
    unsigned threshold;  // dropped where a word is below it: probability * 2^32
    real scale;          // 1 / (1 - probability)
};

/* The factor of `element` of layer `layer`'s output, counted in [T,B,H]: 0 or scale. */
__device__ __forceinline__ real dropout_factor(const Dropout& dropout, int layer, unsigned long long element) {
    unsigned c0 = static_cast<unsigned>(element / 4), c1 = layer;
    unsigned c2 = static_cast<unsigned>(dropout.step), c3 = static_cast<unsigned>(dropout.step >> 32);
    unsigned k0 = static_cast<unsigned>(dropout.seed), k1 = static_cast<unsigned>(dropout.seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const unsigned choice = element % 4;
    const unsigned word = choice < 2 ? (choice ? c1 : c0) : (choice == 2 ? c2 : c3);
    return word >= dropout.threshold ? dropout.scale : real(0);
}
