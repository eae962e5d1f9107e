/* head.cuh: logits, softmax, cross-entropy and dlogits of some rows in one pass, V staying on the chip.
 *   logits[n] = W h'[n] + b    loss[n] = log(sum_v exp logits[n,v]) - logits[n,target_n]
 *   dlogits[n,v] = (softmax(logits[n])[v] - (v = target_n)) / N      dh[n] = W^T dlogits[n]
 * A warp has ROWS_A_WARP rows, a lane every 32nd character; W comes through shared memory, CHUNK of H at a time.
 * Source: softmax minus one-hot; Bishop 2006, section 4.3.4. Reference: numpy_engine.cross_entropy
 */
#pragma once

#include "real.cuh"
#include "shape.cuh"

constexpr int ROWS_A_WARP = 4;
constexpr int CHARACTERS = (V + 31) / 32;  // of a lane

/* Shared memory of a block of WARPS warps, with `Backward` also dlogits and the whole of W. */
template <int CHUNK, int WARPS>
struct __align__(16) HeadTile {
    static constexpr int ROWS = ROWS_A_WARP * WARPS;
    static constexpr int STRIDE = CHUNK + (CHUNK / 4 % 2 ? 0 : 4);  // rows of different lanes in different banks
    real weights[32 * CHARACTERS][STRIDE];
    real hidden[ROWS][STRIDE];
};

/* One tile: rows n = first + row * step for row < count, this thread's warp having ROWS_A_WARP of them.
 * h [N,width], dlogits [N,V] out (logits where targets is null), losses [N].
 * Leaves this warp's dlogits in `kept` [ROWS_A_WARP][CHARACTERS], lane by lane.
 */
template <int CHUNK, int WARPS>
__device__ __forceinline__ void head_tile(
    HeadTile<CHUNK, WARPS>& tile, const real* weight, const real* bias, const real* h, int width, const int* targets,
    real* dlogits, real* losses, long long first, int step, int count, int N, real (&kept)[ROWS_A_WARP][CHARACTERS]) {
    using Tile = HeadTile<CHUNK, WARPS>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < ROWS_A_WARP; ++r)
#pragma unroll
        for (int j = 0; j < CHARACTERS; ++j) kept[r][j] = 0;
    for (int begin = 0; begin < width; begin += CHUNK) {
        __syncthreads();
        for (int index = threadIdx.x; index < 32 * CHARACTERS * Tile::STRIDE; index += 32 * WARPS) {
            const int v = index / Tile::STRIDE, k = index % Tile::STRIDE;
            const bool inside = v < V && k < CHUNK && begin + k < width;
            tile.weights[v][k] = inside ? weight[static_cast<long long>(v) * width + begin + k] : real(0);
        }
        for (int index = threadIdx.x; index < Tile::ROWS * Tile::STRIDE; index += 32 * WARPS) {
            const int row = index / Tile::STRIDE, k = index % Tile::STRIDE;
            const bool inside = row < count && k < CHUNK && begin + k < width;
            tile.hidden[row][k] = inside ? h[(first + static_cast<long long>(row) * step) * width + begin + k] : real(0);
        }
        __syncthreads();
        for (int k = 0; k < CHUNK; k += 4) {
            Four hidden[ROWS_A_WARP];
#pragma unroll
            for (int r = 0; r < ROWS_A_WARP; ++r)
                hidden[r] = *reinterpret_cast<const Four*>(&tile.hidden[warp * ROWS_A_WARP + r][k]);
#pragma unroll
            for (int j = 0; j < CHARACTERS; ++j) {
                const Four weights = *reinterpret_cast<const Four*>(&tile.weights[lane + 32 * j][k]);
#pragma unroll
                for (int r = 0; r < ROWS_A_WARP; ++r) {
                    real& sum = kept[r][j];
                    sum = fma(weights.x, hidden[r].x, sum);
                    sum = fma(weights.y, hidden[r].y, sum);
                    sum = fma(weights.z, hidden[r].z, sum);
                    sum = fma(weights.w, hidden[r].w, sum);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS_A_WARP; ++r) {
        const int row = warp * ROWS_A_WARP + r;
        if (row >= count) {
#pragma unroll
            for (int j = 0; j < CHARACTERS; ++j) kept[r][j] = 0;
            continue;
        }
        const long long n = first + static_cast<long long>(row) * step;
        const int target = targets ? targets[n] : -1;
        real largest = -INFINITY, chosen = 0, sum = 0;
#pragma unroll
        for (int j = 0; j < CHARACTERS; ++j) {
            const int v = lane + 32 * j;
            kept[r][j] = v < V ? kept[r][j] + bias[v] : -INFINITY;
            largest = max(largest, kept[r][j]);
            if (v == target) chosen = kept[r][j];
        }
        if (targets) {
            largest = warp_max(largest);
            chosen = warp_sum(chosen);
#pragma unroll
            for (int j = 0; j < CHARACTERS; ++j) sum += exp(kept[r][j] - largest);
            sum = warp_sum(sum);
            if (lane == 0) losses[n] = log(sum) + (largest - chosen);
#pragma unroll
            for (int j = 0; j < CHARACTERS; ++j)
                kept[r][j] = exp(kept[r][j] - largest) / (sum * N) - (lane + 32 * j == target ? real(1) / N : real(0));
        }
#pragma unroll
        for (int j = 0; j < CHARACTERS; ++j)
            if (lane + 32 * j < V) dlogits[n * V + lane + 32 * j] = kept[r][j];
    }
}
