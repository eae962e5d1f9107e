/* gradient_norm.cu: gradients from their partial sums, the squares that their norm is made of, and the mean loss.
 *   gradients[p] = sum over s of partials[s,p] / scale     squares[block] = sum of this block's gradients^2
 *   mean_losses[k] = mean over n of losses[n]              k: this training step's number in the chunk
 * partials [splits,P] in; it may be `gradients` itself where splits is 1
 * gradients [P] out; squares [gridDim.x - 1] out; losses [N] in; mean_losses: [steps of the chunk], one of them out
 * progress in: which training step of the chunk this is
 * scaling in, if SCALED: the loss scaling, whose scale is a power of two; else null, and scale is 1
 * Thread assignment: the last block adds the losses. All others share out the P: a thread has every
 * 256 * (gridDim.x - 1)-th gradient.
 * Sums: splits in their order; squares and losses in double precision, a thread's own first, then block_sum.
 * Reference: cuchar/adam.py, which adds up the norm itself
 */
#include "common/block_sum.cuh"
#include "common/step.cuh"

constexpr int SPLITS_AT_ONCE = 12;    // splits of a gradient that a thread loads before it adds the first of them
constexpr int GRADIENTS_AT_ONCE = 8;  // gradients that it loads before it squares the first, where there is one split

extern "C" __global__ void __launch_bounds__(256, 4) gradient_norm(
    const real* partials, real* gradients, double* squares, const real* losses, double* mean_losses,
    const Progress* progress, const Scaling* scaling, long long P, int splits, int N) {
    SHARED(double, scratch, 8);
    const int blocks = gridDim.x - 1;
    double sum = 0;
    if (blockIdx.x == blocks) {
        for (int n = threadIdx.x; n < N; n += 256) sum += losses[n];
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 0) mean_losses[progress->now.index] = sum / N;
        return;
    }
    const real unscale = SCALED ? 1 / scaling->scale : 1;
    const long long first = blockIdx.x * 256ll + threadIdx.x, stride = blocks * 256ll;
    const auto square = [&](long long p, real gradient) {
        gradient *= unscale;
        gradients[p] = gradient;
        sum += static_cast<double>(gradient) * gradient;
    };
    if (splits == 1) {
#pragma unroll 1
        for (long long p = first; p < P; p += GRADIENTS_AT_ONCE * stride) {
            real some[GRADIENTS_AT_ONCE];
#pragma unroll
            for (int i = 0; i < GRADIENTS_AT_ONCE; ++i)
                some[i] = p + i * stride < P ? partials[p + i * stride] : real(0);
#pragma unroll
            for (int i = 0; i < GRADIENTS_AT_ONCE; ++i)
                if (p + i * stride < P) square(p + i * stride, some[i]);
        }
    } else {
#pragma unroll 1
        for (long long p = first; p < P; p += stride) {
            real gradient = 0;
            for (int split = 0; split < splits; split += SPLITS_AT_ONCE) {
                real some[SPLITS_AT_ONCE];
#pragma unroll
                for (int s = 0; s < SPLITS_AT_ONCE; ++s)
                    some[s] = split + s < splits ? partials[(split + s) * P + p] : real(0);
#pragma unroll
                for (int s = 0; s < SPLITS_AT_ONCE; ++s) gradient += some[s];
            }
            square(p, gradient);
        }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}
