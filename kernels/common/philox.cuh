/* philox.cuh: random numbers that are a function of a counter and a key, and of nothing else.
 * The key is the seed. Dropout's counter is (element / 4, layer, training step), with 2^30 added to the layer for
 * recurrent weights; a draw's is (position, stream), which has the highest bit of its second word set. No layer's number
 * reaches these bits, so no random number is used twice.
 * Plain C++ but for the functions' attributes and __umulhi, which cpu/forward.hpp defines for itself.
 * Source: Salmon, Moraes, Dror, Shaw 2011 (Philox4x32-10). Reference: cuchar/philox.py
 */
#pragma once

struct Words {
    unsigned w0, w1, w2, w3;
};

/* Ten rounds: the four words of a counter become four random words. */
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

/* The random number with which character `position` of a stream is drawn: an odd multiple of 2^-53 in (0, 1), so never
 * 0 or 1.
 */
__device__ __forceinline__ double draw_uniform(
    unsigned long long seed, unsigned long long stream, unsigned long long position) {
    const Words words = philox(
        {static_cast<unsigned>(position), static_cast<unsigned>(position >> 32) | 1u << 31,
         static_cast<unsigned>(stream), static_cast<unsigned>(stream >> 32)}, seed);
    return static_cast<double>(static_cast<unsigned long long>(words.w0) << 21 | words.w1 >> 11 | 1) / (1ll << 53);
}
