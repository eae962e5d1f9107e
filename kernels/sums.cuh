/* sums.cuh: rows that share an id, added in their order by one warp. */
#pragma once

#include "real.cuh"

constexpr int SUM_COLUMNS = 256, SUM_IDS = 128;

/* out[m] = sum over n in [begin,end) with ids[n] == id of rows[n,m], for the columns m of [column, column + 256) below M.
 * hits: SUM_IDS ints of shared memory, the warp's own.
 */
__device__ __forceinline__ void sum_rows_of_id(
    const int* ids, int begin, int end, int id, const real* rows, int M, int column, real* out, int* hits) {
    constexpr int EACH = SUM_COLUMNS / 32;
    const int lane = threadIdx.x % 32;
    real sums[EACH] = {};
    for (int first = begin; first < end; first += SUM_IDS) {
        int count = 0;
        for (int n = first + lane; n - lane < min(first + SUM_IDS, end); n += 32) {
            const bool hit = n < end && ids[n] == id;
            const unsigned lanes = __ballot_sync(~0u, hit);
            if (hit) hits[count + __popc(lanes & ((1u << lane) - 1))] = n;
            count += __popc(lanes);
        }
        __syncwarp();
#pragma unroll 4
        for (int index = 0; index < count; ++index) {
            const real* row = rows + static_cast<long long>(hits[index]) * M;
#pragma unroll
            for (int j = 0; j < EACH; ++j) {
                sums[j] += row[min(column + lane + 32 * j, M - 1)];
            }
        }
        __syncwarp();
    }
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
        const int m = column + lane + 32 * j;
        if (m < M) out[m] = sums[j];
    }
}
