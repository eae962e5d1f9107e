/* softmax.cu: cross-entropy over logits that a product of matrices has left, in place, in three passes over a row.
 *   loss[n] = -log softmax(x[n])[target_n]     dlogits[n,v] = (softmax(x[n])[v] - (v = target_n)) / N
 *   Formulas: common/softmax.cuh
 * logits [N,V] in: without bias; out: dlogits, times the loss scaling if SCALED; the logits where targets is null
 * bias [V] in
 * targets in: [N] for each window of the chunk; or null, for logits alone
 * progress in: which window of the chunk this is; scaling in, if SCALED, else null
 * losses [N] out, with targets
 * One block a row; a thread has every 256th character. Sums: a thread's own in the order of v, then warp_sum's, then
 * those of the warps in their order.
 * Source: softmax minus one-hot; Bishop 2006, section 4.3.4. Reference: numpy_engine.cross_entropy
 */
#include "common/step.cuh"
#include "head/row_softmax.cuh"

extern "C" __global__ void __launch_bounds__(256) softmax(
    real* logits, const real* bias, const int* targets, const Progress* progress, const Scaling* scaling, real* losses,
    int N, int V) {
    SHARED(real, scratch, 8);
    SHARED(Sum<real>, sums, 8);
    real* row = logits + static_cast<long long>(blockIdx.x) * V;
    real largest = LOWEST;
    for (int v = threadIdx.x; v < V; v += 256) {
        row[v] += bias[v];
        largest = max(largest, row[v]);
    }
    if (!targets) return;
    largest = warp_max(largest);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int warp = 0; warp < 8; ++warp) largest = max(largest, scratch[warp]);
    const int target = targets[static_cast<long long>(progress->now.index) * N + blockIdx.x];
    const real chosen = row[target];
    Sum<real> others = {};
    for (int v = threadIdx.x; v < V; v += 256)
        if (v != target) others += exp_of_difference(row[v], largest);
    others = warp_sum(others);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = others;
    __syncthreads();
    others = {};
    for (int warp = 0; warp < 8; ++warp) others += sums[warp];
    const Softmax softmax(others, exp_of_difference(chosen, largest), N);
    if (threadIdx.x == 0) losses[blockIdx.x] = softmax.loss(largest - chosen);
    const real scale = SCALED ? scaling->scale : 1;
    for (int v = threadIdx.x; v < V; v += 256)
        row[v] = (v == target ? softmax.target_gradient : softmax.of(exp_of_difference(row[v], largest))) * scale;
}
