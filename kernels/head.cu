/* head.cu: the head of N rows, any H, V up to 512; see head.cuh.
 * weight [V,H], bias [V], h [N,H]; targets [N] of this step (a chunk of N a training step) or null.
 * dlogits [N,V] out: logits where targets is null; losses [N] out. A block has 32 rows.
 */
#include "head.cuh"
#include "step.cuh"

constexpr int HEAD_WARPS = 8, HEAD_CHUNK = 16;

extern "C" __global__ void __launch_bounds__(256) head(
    const real* weight, const real* bias, const real* h, const int* targets, const Progress* progress, real* dlogits,
    real* losses, int N) {
    using Tile = HeadTile<HEAD_CHUNK, HEAD_WARPS>;
    SHARED(Tile, tile, 1);
    real kept[ROWS_A_WARP][CHARACTERS];
    const int first = blockIdx.x * Tile::ROWS;
    if (targets) targets += static_cast<long long>(progress->now.index) * N;
    head_tile(tile[0], weight, bias, h, H, targets, dlogits, losses, first, 1, min(Tile::ROWS, N - first), N, kept);
}
