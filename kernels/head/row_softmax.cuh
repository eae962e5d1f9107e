/* row_softmax.cuh: common/softmax.cuh for a warp that has a row of logits: exp, and the sum over the lanes.
 * exp's constants and steps are those of cpu/lanes.hpp. CUDA's own takes one number, and may be off by 2 ulp.
 */
#pragma once

#include "common/real.cuh"

/* 2^k for a whole k, at least -126 (float) or -1022 (double). `rounded` is k + ROUND, whose lowest bits are k's. */
__device__ __forceinline__ float power_of_two(float rounded) {
    return __uint_as_float((__float_as_uint(rounded) + 127) << 23);
}
__device__ __forceinline__ double power_of_two(double rounded) {
    const unsigned long long bits = __double_as_longlong(rounded);
    return __longlong_as_double(static_cast<long long>((bits + 1023) << 52));
}

/* e^(x + low) for x <= 0, where `low` is what rounding has taken from x. A result below the smallest normal number is
 * 0.
 */
__device__ __forceinline__ real exp_of_negative(real x, real low) {
    constexpr bool SINGLE = sizeof(real) == 4;
    constexpr real LEAST = SINGLE ? -87.336544 : -708.3964;  // its exp is the smallest normal number
    constexpr real LOG2_E = 1.4426950408889634, ROUND = SINGLE ? 12582912.0 : 6755399441055744.0;
    constexpr real HIGH = SINGLE ? 0.693359375 : 6.93147180369123816490e-1;
    constexpr real LOW = SINGLE ? -2.12194440054690583e-4 : 1.90821492927058770002e-10;
    constexpr int TERMS = SINGLE ? 7 : 13;
    const real rounded = fma(x, LOG2_E, ROUND), k = rounded - ROUND;
    const real r = fma(k, -LOW, fma(k, -HIGH, x));
    double factorial = SINGLE ? 5040 : 6227020800.0;  // of TERMS
    real series = 1 / factorial;
#pragma unroll
    for (int n = TERMS - 1; n >= 2; --n) {
        factorial /= n + 1;
        series = fma(series, r, static_cast<real>(1 / factorial));
    }
    real fraction = fma(series, r * r, r);
    fraction += fma(low, fraction, low);
    const real scale = power_of_two(rounded);
    return x < LEAST ? real(0) : fma(scale, fraction, scale);
}

// Here and not above, since it calls exp_of_negative.
#include "common/softmax.cuh"

/* Returns to every lane the sum of all lanes' sums, in warp_sum's order. */
__device__ __forceinline__ Sum<real> warp_sum(Sum<real> sum) {
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        sum += Sum<real>{__shfl_xor_sync(~0u, sum.high, distance), __shfl_xor_sync(~0u, sum.low, distance)};
    return sum;
}
