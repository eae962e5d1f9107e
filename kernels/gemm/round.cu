/* round.cu: rounds numbers to the 16 bits of PRECISION, for a library's product of matrices.
 * numbers [count] in; words [ceil(count / 2)] out: two numbers each, the first in the low half; 0 after the last
 * One thread for two numbers. Rounds as tensor_gemm.cu does, to nearest and ties to even: `word` in hardware.cuh.
 */
#include "common/hardware.cuh"
#include "common/real.cuh"

#ifndef PRECISION
#define PRECISION Bf16
#endif

extern "C" __global__ void __launch_bounds__(256) round_numbers(const real* numbers, unsigned* words, long long count) {
    const long long word = blockIdx.x * 256ll + threadIdx.x, first = 2 * word;
    if (first >= count) return;
    const real pair[2] = {numbers[first], first + 1 < count ? numbers[first + 1] : real(0)};
    words[word] = PRECISION::word(pair);
}
