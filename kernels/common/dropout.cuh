/* dropout.cuh: which cells are dropped, a function of (seed, step, layer, element). Reference: cuchar/philox.py */
#pragma once

#include "common/philox.cuh"
#include "common/real.cuh"

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
