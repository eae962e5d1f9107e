/* weigh.cu: what one of several processes contributes to the gradients and the loss of the whole batch.
 *   computed[p] = weight * computed[p] for p < P     computed[P] = weight * mean_losses[k]
 * computed [P+1] in, out: the gradients of the mean loss over this process's rows; then room for one more number
 * mean_losses in: k is this training step's number in the chunk (progress)
 * weight: this process's part of the batch's rows
 * The sum of `computed` over all processes then holds the gradients of the mean loss over the batch, and that loss.
 * One thread an element. Reference: cuchar/engines/host.py, HostLearner
 */
#include "common/real.cuh"
#include "common/step.cuh"

extern "C" __global__ void __launch_bounds__(256) weigh(
    real* computed, const double* mean_losses, const Progress* progress, double weight, long long P) {
    const long long p = blockIdx.x * 256ll + threadIdx.x;
    if (p < P) computed[p] *= static_cast<real>(weight);
    if (p == P) computed[p] = static_cast<real>(weight * mean_losses[progress->now.index]);
}
