/* real.cuh: the number type `real` (float unless the macro REAL says double), and functions of single numbers. */
#pragma once

#include "common/hardware.cuh"
#include "common/sum.cuh"

#ifndef REAL
#define REAL float
#endif
using real = REAL;

constexpr real LOWEST = -3e38;  // below every logit; NVRTC knows no INFINITY

struct __align__(16) Four {
    real x, y, z, w;
};

__device__ __forceinline__ real sigmoid(real x) { return reciprocal(1 + exp(-x)); }

/* tanh(x) for scale 1, sigmoid(x) for scale 1/2: one instruction stream for lanes that want either. */
__device__ __forceinline__ real activate(real x, real scale) { return tanh(x * scale) * scale + (1 - scale); }

/* 2^k, for a whole k from -126 or -1022 up, given the sum of k and ROUND, whose lowest bits are k's. */
__device__ __forceinline__ float power_of_two(float rounded) {
    return __uint_as_float((__float_as_uint(rounded) + 127) << 23);
}
__device__ __forceinline__ double power_of_two(double rounded) {
    return __longlong_as_double(static_cast<long long>(
        (static_cast<unsigned long long>(__double_as_longlong(rounded)) + 1023) << 52));
}

/* e^(x + low) for x <= 0, where `low` is what rounding has taken from x. A result below the smallest normal number is
 * 0. The constants and steps are those of cpu/lanes.hpp: CUDA's exp takes one number, and may be off by 2 ulp.
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
    double factorial = SINGLE ? 5040 : 6227020800.0;  // TERMS!
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

/* Returns to every lane the number of the lane whose number differs in the bit `distance`. */
template <class Number>
__device__ __forceinline__ Number of_other_lane(Number value, int distance) {
    return __shfl_xor_sync(~0u, value, distance);
}
template <class Number>
__device__ __forceinline__ Sum<Number> of_other_lane(Sum<Number> value, int distance) {
    return {of_other_lane(value.high, distance), of_other_lane(value.low, distance)};
}

/* Returns to every lane the sum of all lanes' `value`. Lanes 16 apart are added first, then 8, 4, 2 and 1 apart: the
 * same order every time.
 */
template <class Number>
__device__ __forceinline__ Number warp_sum(Number value) {
#pragma unroll
    for (int distance = 16; distance; distance /= 2) value += of_other_lane(value, distance);
    return value;
}

/* Returns to every lane the largest of all lanes' `value`. */
__device__ __forceinline__ real warp_max(real value) {
#pragma unroll
    for (int distance = 16; distance; distance /= 2) value = max(value, __shfl_xor_sync(~0u, value, distance));
    return value;
}
