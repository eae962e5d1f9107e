/* head.cu: the head of N rows, any H, V up to 512; see head.cuh.
 * weight [V,H], bias [V], h [N,H]; targets [N] of this step (a chunk of N a training step) or null.
 * dlogits [N,V] out: logits where targets is null; losses [N] out. A block has 32 rows.
 */
#include "head.cuh"
#include "step.cuh"

constexpr int EACH = 4, ROWS = 8 * EACH, CHUNK = 16;

extern "C" __global__ void __launch_bounds__(256) head(
    const real* weight, const real* bias, const real* h, const int* targets, const Progress* progress, real* dlogits,
    real* losses, int N) {
    using Weights = HeadWeights<CHUNK>;
    using Hidden = HeadRows<ROWS, CHUNK>;
    SHARED(Weights, weights, 1);
    SHARED(Hidden, hidden, 1);
    const int first = blockIdx.x * ROWS;
    real logits[EACH][CHARACTERS] = {};
    for (int begin = 0; begin < H; begin += CHUNK) {
        __syncthreads();
        weights[0].fill<256>(weight, H, V, begin);
        hidden[0].fill<256>(h + static_cast<long long>(first) * H, H, N - first, begin);
        __syncthreads();
        add_logits(weights[0], hidden[0], logits);
    }
    if (targets) targets += static_cast<long long>(progress->now.index) * N;
    const int mine = first + static_cast<int>(threadIdx.x) / 32 * EACH;
    finish_rows(bias, targets, dlogits, losses, mine, 1, min(EACH, N - mine), N, logits);
}
