/* head.cu: the output layer of N rows in one pass, for any H and V up to 512; formulas: head.cuh.
 * weight [V,H], bias [V], h [N,H] in
 * targets in: [N] for each window of the chunk; or null, for logits alone
 * progress in: which window of the chunk this is
 * dlogits [N,V] out: the logits where targets is null; losses [N] out, with targets
 * A block has 32 rows, a warp of it four.
 */
#include "head/head.cuh"
#include "common/step.cuh"

constexpr int WARP_ROWS = 4, TILE_ROWS = 8 * WARP_ROWS, DEPTH = 16;
struct Buffer {
    HeadWeights<DEPTH> weights;
    HeadRows<TILE_ROWS, DEPTH> hidden;
};
constexpr int BUFFERS = 2 * sizeof(Buffer) <= 48 * 1024 ? 2 : 1;  // of two, one is filled while the other is used

extern "C" __global__ void __launch_bounds__(256) head(
    const real* weight, const real* bias, const real* h, const int* targets, const Progress* progress, real* dlogits,
    real* losses, int N) {
    SHARED(Buffer, buffers, BUFFERS);
    const int block_row = blockIdx.x * TILE_ROWS;
    const auto fetch = [&](int begin) {
        Buffer& buffer = buffers[begin / DEPTH % BUFFERS];
        buffer.weights.fetch<256>(weight, H, V, begin);
        buffer.hidden.fetch<256>(h + static_cast<long long>(block_row) * H, H, N - block_row, begin);
        commit_copies();
    };
    real logits[WARP_ROWS][LANE_CHARACTERS] = {};
    if (BUFFERS > 1) fetch(0);
    for (int begin = 0; begin < H; begin += DEPTH) {
        fetch(begin + (BUFFERS - 1) * DEPTH);
        wait_copies<BUFFERS - 1>();
        __syncthreads();
        const Buffer& buffer = buffers[begin / DEPTH % BUFFERS];
        add_logits(buffer.weights, buffer.hidden, logits);
        __syncthreads();
    }
    if (targets) targets += static_cast<long long>(progress->now.index) * N;
    const int warp_row = block_row + static_cast<int>(threadIdx.x) / 32 * WARP_ROWS;
    finish_rows(bias, targets, dlogits, losses, warp_row, 1, min(WARP_ROWS, N - warp_row), N, logits);
}
