/* sum.cuh: sums that lose no digits: what rounding takes from `high` is kept in `low`.
 * Plain C++ but for the functions' attributes, so that the C++ engine has it too; a Number may be a vector of numbers.
 * Source: Knuth, The Art of Computer Programming 2, section 4.2.2, theorem B.
 */
#pragma once

/* What was lost when a + b was rounded to `sum`, exactly. */
template <class Number>
__device__ __forceinline__ Number lost(Number a, Number b, Number sum) {
    const Number rounded_b = sum - a;
    return (a - (sum - rounded_b)) + (b - rounded_b);
}

/* high + low has twice the digits of a Number. */
template <class Number>
struct Sum {
    Number high, low;

    __device__ __forceinline__ Sum& operator+=(Number number) {
        const Number sum = high + number;
        low += lost(high, number, sum);
        high = sum;
        return *this;
    }
    /* The order of the two sums does not matter, so lanes that add each other's get the same bits. */
    __device__ __forceinline__ Sum& operator+=(const Sum& other) {
        const Number sum = high + other.high;
        low = (low + other.low) + lost(high, other.high, sum);
        high = sum;
        return *this;
    }
};
