/* round.cu: numbers [count] in 16 bits, PRECISION's, for a library's product of matrices; one thread for two of them.
 * words [ceil(count / 2)] words. Rounds as tensor_gemm.cu does.
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
