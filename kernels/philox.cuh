/* philox.cuh: random numbers that are a function of a counter and a key, and of nothing else: dropout's of
 * (seed, step, layer, element), a draw's of (seed, stream, position). No layer has the bit that a draw's counter has.
 * Source: Salmon, Moraes, Dror, Shaw 2011 (Philox4x32-10). Reference: cuchar/philox.py
 */
#pragma once

#include "real.cuh"

struct Words {
    unsigned w0, w1, w2, w3;
};

/* Ten rounds; a counter of four words in and four random ones out. */
__device__ __forceinline__ Words philox(Words c, unsigned long long seed) {
    unsigned k0 = static_cast<unsigned>(seed), k1 = static_cast<unsigned>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, c.w0), low0 = 0xD2511F53u * c.w0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c.w2), low1 = 0xCD9E8D57u * c.w2;
        c = {high1 ^ c.w1 ^ k0, low1, high0 ^ c.w3 ^ k1, low0};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

struct Dropout {
    unsigned long long seed, step;
    unsigned threshold;  // dropped where a word is below it: probability * 2^32
    real scale;          // 1 / (1 - probability)
};

/* The factor of `element` of layer `layer`'s output, counted in [T,B,H]: 0 or scale. */
__device__ __forceinline__ real dropout_factor(const Dropout& dropout, int layer, unsigned long long element) {
    const Words words = philox(
        {static_cast<unsigned>(element / 4), static_cast<unsigned>(layer), static_cast<unsigned>(dropout.step),
         static_cast<unsigned>(dropout.step >> 32)}, dropout.seed);
    const unsigned choice = element % 4;
    const unsigned word = choice < 2 ? (choice ? words.w1 : words.w0) : (choice == 2 ? words.w2 : words.w3);
    return word >= dropout.threshold ? dropout.scale : real(0);
}

/* In (0, 1), never 0 or 1: an odd multiple of 2^-53, for character `position` of a stream. */
__device__ __forceinline__ double draw_uniform(
    unsigned long long seed, unsigned long long stream, unsigned long long position) {
    const Words words = philox(
        {static_cast<unsigned>(position), static_cast<unsigned>(position >> 32) | 1u << 31,
         static_cast<unsigned>(stream), static_cast<unsigned>(stream >> 32)}, seed);
    return static_cast<double>(static_cast<unsigned long long>(words.w0) << 21 | words.w1 >> 11 | 1) / (1ll << 53);
}
