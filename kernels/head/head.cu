/* head.cu: the head of N rows, any H, V up to 512; see head.cuh.
 * weight [V,H], bias [V], h [N,H]; targets [N] of this step (a chunk of N a training step) or null.
 * dlogits [N,V] out: logits where targets is null; losses [N] out. A block has 32 rows.
 */
#include "head/head.cuh"
#include "common/step.cuh"

constexpr int EACH = 4, ROWS = 8 * EACH, CHUNK = 16;
struct Chunk {
    HeadWeights<CHUNK> weights;
    HeadRows<ROWS, CHUNK> hidden;
};
constexpr int BUFFERS = 2 * sizeof(Chunk) <= 48 * 1024 ? 2 : 1;  // where two fit, one is fetched while the other is used

extern "C" __global__ void __launch_bounds__(256) head(
    const real* weight, const real* bias, const real* h, const int* targets, const Progress* progress, real* dlogits,
    real* losses, int N) {
    SHARED(Chunk, chunks, BUFFERS);
    const int first = blockIdx.x * ROWS;
    const auto fetch = [&](int begin) {
        Chunk& chunk = chunks[begin / CHUNK % BUFFERS];
        chunk.weights.fetch<256>(weight, H, V, begin);
        chunk.hidden.fetch<256>(h + static_cast<long long>(first) * H, H, N - first, begin);
        commit_copies();
    };
    real logits[EACH][CHARACTERS] = {};
    if (BUFFERS > 1) fetch(0);
    for (int begin = 0; begin < H; begin += CHUNK) {
        fetch(begin + (BUFFERS - 1) * CHUNK);
        wait_copies<BUFFERS - 1>();
        __syncthreads();
        const Chunk& chunk = chunks[begin / CHUNK % BUFFERS];
        add_logits(chunk.weights, chunk.hidden, logits);
        __syncthreads();
    }
    if (targets) targets += static_cast<long long>(progress->now.index) * N;
    const int mine = first + static_cast<int>(threadIdx.x) / 32 * EACH;
    finish_rows(bias, targets, dlogits, losses, mine, 1, min(EACH, N - mine), N, logits);
}
