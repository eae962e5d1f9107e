/* round.cu: numbers [count] in 16 bits, PRECISION's, for a library's product of matrices; one thread for two of them.
 * to [ceil(count / 2)] words. Rounds as tensor_gemm.cu does.
 */
#include "common/hardware.cuh"
#include "common/real.cuh"

#ifndef PRECISION
#define PRECISION Bf16
#endif

extern "C" __global__ void __launch_bounds__(256) round_numbers(const real* from, unsigned* to, long long count) {
    const long long word = blockIdx.x * 256ll + threadIdx.x, first = 2 * word;
    if (first >= count) return;
    const real numbers[2] = {from[first], first + 1 < count ? from[first + 1] : real(0)};
    to[word] = PRECISION::word(numbers);
}
