/* softmax.cuh: softmax, cross-entropy and dlogits of one row of logits x, such that no digit is lost on the way.
 *   e[v] = exp(x[v] - max x)    others = sum of e[v] over v != target    total = others + e[target]
 *   loss = log1p(others + (e[target] - 1)) + (max x - x[target])
 *   dlogits[v] = e[v] / (total*N)     dlogits[target] = -others / (total*N)
 * Written so, neither a loss near 0 nor the target's dlogit, softmax - 1, is a difference of numbers that are nearly
 * equal. What the subtraction, the sums and 1 / (total*N) lose by rounding is kept in a second number, so that a softmax
 * has the roundings of exp and of a few operations, whatever V is.
 * Plain C++ but for the functions' attributes, fma and log1p, for which cpu/forward.hpp cares itself. `real` and
 * exp_of_negative are those of head/row_softmax.cuh or cpu/lanes.hpp; a Number is a `real`, or a vector of them.
 * Reference: numpy_engine.cross_entropy
 */
#pragma once

#include "common/sum.cuh"

/* e^(x - largest), for x <= largest. */
template <class Number>
__device__ __forceinline__ Number exp_of_difference(Number x, Number largest) {
    const Number difference = x - largest;
    return exp_of_negative(difference, lost(x, -largest, difference));
}

/* A row's loss and dlogits, from its e. */
struct Softmax {
    static constexpr real UP = 1ll << 60, DOWN = 1 / UP;  // by which products are larger on the way than in the end

    real others, of_target;
    real scale, scale_low;  // scale + scale_low = UP / (total*N), so that no e * scale_low is too small for a number
    real target_gradient;   // dlogits[target]

    /* sum: of the e without the target's, of_target. */
    __device__ __forceinline__ Softmax(const Sum<real>& sum, real of_target, int N)
        : others(sum.high + sum.low), of_target(of_target) {
        Sum<real> total = sum;
        total += of_target;
        const real divisor = total.high * N;
        const real divisor_low = fma(total.high, real(N), -divisor) + total.low * N;
        scale = UP / divisor;
        scale_low = (fma(-divisor, scale, UP) - divisor_low * scale) * (scale * DOWN);
        target_gradient = fma(sum.high, scale, fma(sum.high, scale_low, sum.low * scale)) * -DOWN;
    }

    /* dlogits[v] of another character than the target. */
    __device__ __forceinline__ real of(real e) const { return fma(e, scale, e * scale_low) * DOWN; }

    /* behind: max x - x[target]. */
    __device__ __forceinline__ real loss(real behind) const { return log1p(others + (of_target - 1)) + behind; }
};
