/* weight_gradients.cu: every gradient of the resident regime, split over N = T*B, in one launch.
 *   d W [M,K] = sum over n of left[n,M] times right[n,K]     d bias [M] = sum over n of left[n,M]
 *   for a layer: left = da, right = h before the step (W_hh) or the layer's input (W_ih)
 *   for the head: left = dlogits, right = h' of the last layer
 *   d W_ih of layer 0, [V,4H]: rows of da added by character
 * partials [S,PARAMETERS]: split s has n from s*N/S to (s+1)*N/S; gradient_norm adds the splits in order.
 * A block: one split's tile of TILE_M x TILE_K, a thread 4 x 4 of it; or four characters of one split.
 * Reference: numpy_engine._weight_gradient, sum_columns_by_id
 */
#include "shape.cuh"
#include "step.cuh"
#include "sums.cuh"

constexpr int TILE_M = 64, TILE_K = 32, DEPTH = 16, GEMM_THREADS = 128;

struct Product {
    const real *left, *right;
    int M;
    long long weight_at, bias_at;  // bias_at -1: another product of the same left has it
};

__host__ __device__ constexpr int tiles_of(int M) { return (M + TILE_M - 1) / TILE_M * ((H + TILE_K - 1) / TILE_K); }

__device__ void tile_product(const Product& product, int tile, int begin, int end, real* partial) {
    SHARED(Four, left, DEPTH * TILE_M / 4);
    SHARED(Four, right, DEPTH * TILE_K / 4);
    constexpr int COLUMN_TILES = (H + TILE_K - 1) / TILE_K;
    const int M = product.M, m0 = tile / COLUMN_TILES * TILE_M, k0 = tile % COLUMN_TILES * TILE_K;
    const int x = threadIdx.x % (TILE_K / 4), y = threadIdx.x / (TILE_K / 4);
    real sums[4][4] = {}, bias[4] = {};
    for (int depth = begin; depth < end; depth += DEPTH) {
        for (int index = threadIdx.x; index < DEPTH * TILE_M; index += GEMM_THREADS) {
            const int n = depth + index / TILE_M, m = m0 + index % TILE_M;
            reinterpret_cast<real*>(left)[index] = n < end && m < M ? product.left[static_cast<long long>(n) * M + m] : real(0);
        }
        for (int index = threadIdx.x; index < DEPTH * TILE_K; index += GEMM_THREADS) {
            const int n = depth + index / TILE_K, k = k0 + index % TILE_K;
            reinterpret_cast<real*>(right)[index] = n < end && k < H ? product.right[static_cast<long long>(n) * H + k] : real(0);
        }
        __syncthreads();
#pragma unroll
        for (int n = 0; n < DEPTH; ++n) {
            const Four a = left[n * (TILE_M / 4) + y], b = right[n * (TILE_K / 4) + x];
            const real as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                bias[i] += as[i];
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fma(as[i], bs[j], sums[i][j]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int m = m0 + 4 * y + i;
        if (m >= M) continue;
        if (product.bias_at >= 0 && k0 == 0 && x == 0) partial[product.bias_at + m] = bias[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int k = k0 + 4 * x + j;
            if (k < H) partial[product.weight_at + m * H + k] = sums[i][j];
        }
    }
}

/* gates [L,N,4H]: da; h [L,T+1,B,H]; dropped [L-1,N,H] or null; dlogits [N,V]; inputs [N] of this step. */
extern "C" __global__ void __launch_bounds__(GEMM_THREADS) weight_gradients(
    const real* gates, const real* h, const real* dropped, const real* dlogits, const int* inputs,
    const Progress* progress, real* partials, int T, int B, int S) {
    SHARED(int, hits, GEMM_THREADS / 32 * SUM_IDS);
    const long long N = static_cast<long long>(T) * B, BH = static_cast<long long>(B) * H;
    const int split = blockIdx.x % S, begin = N * split / S, end = N * (split + 1) / S;
    real* partial = partials + static_cast<long long>(split) * PARAMETERS;
    int tile = blockIdx.x / S;
    for (int layer = 0; layer < L; ++layer) {
        const real* da = gates + layer * N * 4 * H;
        const real* entering = h + layer * (T + 1) * BH;
        if (tile < tiles_of(4 * H))
            return tile_product({da, entering, 4 * H, weight_hh_at(layer), bias_at(layer)}, tile, begin, end, partial);
        tile -= tiles_of(4 * H);
        if (layer == 0) continue;
        const real* below = dropped ? dropped + (layer - 1) * N * H : h + (layer - 1) * (T + 1) * BH + BH;
        if (tile < tiles_of(4 * H))
            return tile_product({da, below, 4 * H, weight_ih_at(layer), -1}, tile, begin, end, partial);
        tile -= tiles_of(4 * H);
    }
    if (tile < tiles_of(V)) {
        const real* last = h + (L - 1) * (T + 1) * BH + BH;
        return tile_product({dlogits, last, V, HEAD_WEIGHT_AT, HEAD_BIAS_AT}, tile, begin, end, partial);
    }
    tile -= tiles_of(V);
    constexpr int PARTS = (4 * H + SUM_COLUMNS - 1) / SUM_COLUMNS;
    const int warp = threadIdx.x / 32, job = tile * (GEMM_THREADS / 32) + warp, v = job / PARTS;
    if (v >= V) return;
    sum_rows_of_id(inputs + progress->now.index * N, begin, end, v, gates, 4 * H, job % PARTS * SUM_COLUMNS,
                   partial + v * 4 * H, &hits[warp * SUM_IDS]);
}
