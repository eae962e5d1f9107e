/* lstm_resident.cu: a whole window, all layers, in one launch, the weights in registers.
 *
 *   lstm_forward   h, c and gates, from the state in slot T; without dropout
 *   lstm_step      forward, head and backward of training: dlogits, losses, and gates become da.
 *                  The first kernel of a step: reads progress->next
 *
 * A block (CLUSTER blocks) has one batch row: no barrier is wider. Shapes: wavefront.cuh, Sequence.
 */
#include "head.cuh"
#include "lstm_backward.cuh"
#include "lstm_forward.cuh"
#include "step.cuh"

constexpr int HEAD_CHUNK = (H + 3) / 4 * 4;
using Tile = HeadTile<HEAD_CHUNK, THREADS / 32>;

struct __align__(16) Shared {
    Exchange exchange;
    Tile tile;
    real dlogits[Tile::ROWS][32 * CHARACTERS];
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES, "plan.py and lstm_resident.cu differ on shared memory");
#endif

#if CLUSTER > 1
#define CLUSTER_DIMS __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_DIMS
#endif

/* Every CLUSTER-th tile of the row's steps: logits to dlogits, then dh. */
__device__ __forceinline__ void row_head(const Sequence& sequence, Shared& shared) {
    const int T = sequence.T, B = sequence.B, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr int COLUMNS = (H + 31) / 32;  // of a lane
    const real* parameters = sequence.parameters;
    const real* h = sequence.h + sequence.state_at(L - 1, 1) - static_cast<long long>(sequence.b) * H;
    for (int t = block_rank() * Tile::ROWS; t < T; t += CLUSTER * Tile::ROWS) {
        const int count = min(Tile::ROWS, T - t);
        real dlogits[ROWS_A_WARP][CHARACTERS];
        const long long first = static_cast<long long>(t) * B + sequence.b;
        head_tile(shared.tile, parameters + HEAD_WEIGHT_AT, parameters + HEAD_BIAS_AT, h, H, sequence.targets,
                  sequence.dlogits, sequence.losses, first, B, count, T * B, dlogits);
#pragma unroll
        for (int r = 0; r < ROWS_A_WARP; ++r)
#pragma unroll
            for (int j = 0; j < CHARACTERS; ++j) shared.dlogits[warp * ROWS_A_WARP + r][lane + 32 * j] = dlogits[r][j];
        __syncwarp();
        real dh[ROWS_A_WARP][COLUMNS] = {};
        for (int v = 0; v < V; v += 4) {
            Four d[ROWS_A_WARP];
#pragma unroll
            for (int r = 0; r < ROWS_A_WARP; ++r)
                d[r] = *reinterpret_cast<const Four*>(&shared.dlogits[warp * ROWS_A_WARP + r][v]);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const int k = min(lane + 32 * j, H - 1);
                const Four w = {shared.tile.weights[v][k], shared.tile.weights[v + 1][k],
                                shared.tile.weights[v + 2][k], shared.tile.weights[v + 3][k]};
#pragma unroll
                for (int r = 0; r < ROWS_A_WARP; ++r) add_product(w, d[r], dh[r][j]);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS_A_WARP; ++r)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const int row = warp * ROWS_A_WARP + r, k = lane + 32 * j;
                if (row < count && k < H) sequence.dh[sequence.output_at(0, t + row) + k] = dh[r][j];
            }
        __syncwarp();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_DIMS lstm_forward(
    const real* parameters, const int* inputs, real* h, real* c, real* gates, int T, int B) {
    DYNAMIC_SHARED(Shared, shared);
    const int b = blockIdx.x / CLUSTER;
    const Sequence sequence = {parameters, inputs, nullptr, h, c, gates, nullptr, nullptr, nullptr, nullptr,
                               T, B, b, true, {}};
    prepare(shared->exchange);
    lstm_forward(sequence, shared->exchange);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_DIMS lstm_step(
    const real* parameters, const int* inputs, const int* targets, real* h, real* c, real* gates, real* dropped,
    real* dh, real* dlogits, real* losses, int T, int B, int carry, unsigned long long seed, unsigned threshold,
    real scale, const Step* steps, Progress* progress) {
    DYNAMIC_SHARED(Shared, shared);
    const int index = progress->next.index, b = blockIdx.x / CLUSTER;
    const long long skipped = static_cast<long long>(index) * T * B;
    const Sequence sequence = {parameters, inputs + skipped, targets + skipped, h, c, gates, dropped, dh, dlogits,
                               losses, T, B, b, carry, {seed, steps[index].number, threshold, scale}};
    prepare(shared->exchange);
    lstm_forward(sequence, shared->exchange);
    row_head(sequence, *shared);
    sync_row();
    lstm_backward(sequence, shared->exchange);
    if (blockIdx.x == 0 && threadIdx.x == 0) progress->now = progress->next;
}
