/* four.cuh: four numbers at a time: loading them, and adding products of them. */
#pragma once

#include "common/real.cuh"
#include "common/shape.cuh"

/* Numbers [first, first + 4) of a row of WIDTH numbers; 0 for those at WIDTH or beyond. Where WIDTH is a multiple of 4,
 * all rows are aligned and one instruction loads all four.
 */
template <int WIDTH>
__device__ __forceinline__ Four load_four(const real* row, int first) {
    if constexpr (WIDTH % 4 == 0) {
        return first < WIDTH ? *reinterpret_cast<const Four*>(row + first) : Four{};
    } else {
        auto at = [&](int k) { return k < WIDTH ? row[k] : real(0); };
        return {at(first), at(first + 1), at(first + 2), at(first + 3)};
    }
}

/* sum += a . b: the four products are added one after the other, x first. */
__device__ __forceinline__ void add_product(const Four& a, const Four& b, real& sum) {
    sum = fma(a.x, b.x, sum);
    sum = fma(a.y, b.y, sum);
    sum = fma(a.z, b.z, sum);
    sum = fma(a.w, b.w, sum);
}

/* sum += scale * a: four independent sums. */
__device__ __forceinline__ void add_scaled(const Four& a, real scale, Four& sum) {
    sum.x = fma(a.x, scale, sum.x);
    sum.y = fma(a.y, scale, sum.y);
    sum.z = fma(a.z, scale, sum.z);
    sum.w = fma(a.w, scale, sum.w);
}
