/* sums.cu: bias gradients and embedding gradients; no atomics, so runs repeat exactly.
 * Reference: numpy_engine.sum_columns_by_id
 */
#include "common/step.cuh"
#include "training/sums.cuh"

constexpr int PARTS = 32;  // of N, for the threads of a column

/* out[m] = sum over n of rows[n,m]; rows [N,M]. A block of 32 x PARTS threads for 32 columns. */
extern "C" __global__ void __launch_bounds__(32 * PARTS) sum_rows(const real* rows, real* out, int N, int M) {
    SHARED(real, partial, 32 * PARTS);
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32, m = blockIdx.x * 32 + lane;
    real sum = 0;
    if (m < M)
#pragma unroll 8
        for (int n = part; n < N; n += PARTS) sum += rows[static_cast<long long>(n) * M + m];
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (part || m >= M) return;
    sum = 0;
#pragma unroll
    for (int other = 0; other < PARTS; ++other) sum += partial[other * 32 + lane];
    out[m] = sum;
}

/* out[v,m] = sum over n with inputs[n] == v of rows[n,m]; inputs [N] of this step, rows [N,M], out [V,M].
 * A warp for one v and 256 columns.
 */
extern "C" __global__ void __launch_bounds__(128) sum_rows_by_id(
    const int* inputs, const Progress* progress, const real* rows, real* out, int N, int M, int V) {
    SHARED(int, hits, 4 * SUM_IDS);
    const int warp = threadIdx.x / 32, parts = (M + SUM_COLUMNS - 1) / SUM_COLUMNS;
    const long long job = blockIdx.x * 4ll + warp;
    if (job >= static_cast<long long>(V) * parts) return;
    const int v = job / parts, column = job % parts * SUM_COLUMNS;
    inputs += static_cast<long long>(progress->now.index) * N;
    sum_rows_of_id(inputs, 0, N, v, rows, M, column, out + static_cast<long long>(v) * M, &hits[warp * SUM_IDS]);
}
