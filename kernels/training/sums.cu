/* sums.cu: gradients that are sums of rows: biases, and layer 0's weights, whose rows belong to characters. No atomics,
 * so runs repeat exactly.
 * Reference: numpy_engine.sum_columns_by_id
 */
#include "common/step.cuh"
#include "training/sums.cuh"

constexpr int SUM_WARPS = 32;

/* out[m] = sum over n of rows[n,m]; rows [N,M] in, out [M] out.
 * A block of SUM_WARPS warps has 32 columns, a lane one of them. Warp w adds n = w, w + SUM_WARPS, ...; the warps' sums
 * are added in their order.
 */
extern "C" __global__ void __launch_bounds__(32 * SUM_WARPS) sum_rows(const real* rows, real* out, int N, int M) {
    SHARED(real, partials, 32 * SUM_WARPS);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = blockIdx.x * 32 + lane;
    real sum = 0;
    if (m < M)
#pragma unroll 8
        for (int n = warp; n < N; n += SUM_WARPS) sum += rows[static_cast<long long>(n) * M + m];
    partials[threadIdx.x] = sum;
    __syncthreads();
    if (warp || m >= M) return;
    sum = 0;
#pragma unroll
    for (int other = 0; other < SUM_WARPS; ++other) sum += partials[other * 32 + lane];
    out[m] = sum;
}

/* out[v,m] = sum over n with inputs[n] == v of rows[n,m]
 * inputs in: [N] for each window of the chunk; progress in: which window of the chunk this is
 * rows [N,M] in; out [V,M] out
 * A block has four warps, each of which adds one character's rows in SUM_COLUMNS columns (sums.cuh).
 */
extern "C" __global__ void __launch_bounds__(128) sum_rows_by_id(
    const int* inputs, const Progress* progress, const real* rows, real* out, int N, int M, int V) {
    SHARED(int, hits, 4 * SUM_IDS);
    const int warp = threadIdx.x / 32, strips = (M + SUM_COLUMNS - 1) / SUM_COLUMNS;
    const long long job = blockIdx.x * 4ll + warp;
    if (job >= static_cast<long long>(V) * strips) return;
    const int v = job / strips, column = job % strips * SUM_COLUMNS;
    inputs += static_cast<long long>(progress->now.index) * N;
    sum_rows_of_id(inputs, 0, N, v, rows, M, column, out + static_cast<long long>(v) * M, &hits[warp * SUM_IDS]);
}
