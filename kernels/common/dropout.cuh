/* dropout.cuh: which elements of a layer's output are dropped: a function of (seed, training step, layer, element). For its
 * recurrent weights, weight_dropout.cu asks with another number in the place of the layer's.
 * An element is numbered as in the whole batch, of which a window may have some rows only.
 * Nothing is stored: whoever needs the mask computes it again, forward and backward, and finds the same.
 * Source: Srivastava et al. 2014 (inverted: what stays is scaled up). Reference: cuchar/philox.py, dropout_mask
 */
#pragma once

#include "common/philox.cuh"
#include "common/real.cuh"

struct Dropout {
    unsigned long long seed, step;  // step: the training step's number
    unsigned threshold;             // an element is dropped where its random word is below it: probability * 2^32
    int first_row, batch;           // the window's rows are rows first_row, first_row+1, ... of a batch of so many
    real scale;                     // what stays is multiplied by it: 1 / (1 - probability)

    /* The index in [T,batch] of the window's row b at time step t. */
    __device__ __forceinline__ long long row(int t, int b) const {
        return static_cast<long long>(t) * batch + first_row + b;
    }
};

/* The factor, 0 or scale, of one element of the output of layer `layer`. `element` is its index in [T,batch,H]; four
 * neighbours share one call of philox, of whose four words each takes its own.
 */
__device__ __forceinline__ real dropout_factor(const Dropout& dropout, int layer, unsigned long long element) {
    const Words words = philox(
        {static_cast<unsigned>(element / 4), static_cast<unsigned>(layer), static_cast<unsigned>(dropout.step),
         static_cast<unsigned>(dropout.step >> 32)}, dropout.seed);
    const unsigned choice = element % 4;
    const unsigned word = choice < 2 ? (choice ? words.w1 : words.w0) : (choice == 2 ? words.w2 : words.w3);
    return word >= dropout.threshold ? dropout.scale : real(0);
}
