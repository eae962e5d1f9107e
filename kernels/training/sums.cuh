/* sums.cuh: the rows of a matrix that belong to one character, added in their order by one warp. */
#pragma once

#include "common/real.cuh"

constexpr int SUM_COLUMNS = 256;  // that a warp adds up: 8 for each lane
constexpr int SUM_IDS = 256;      // that a warp looks through at once

/* out[m] = sum over n in [begin, end) with ids[n] == id of rows[n,m], for m in [column, column + SUM_COLUMNS) below M.
 * ids [>= end], rows [>= end,M] in; out [M] out; hits: SUM_IDS ints of shared memory, this warp's own.
 * A lane has every 32nd of the columns, and adds the rows in the order of n. The warp of a common character would wait
 * for memory most of the time if it took one row after the other. So the next SUM_IDS ids are on their way while rows
 * are added, and ROWS_AT_ONCE rows are on their way together.
 */
__device__ __forceinline__ void sum_rows_of_id(
    const int* ids, int begin, int end, int id, const real* rows, int M, int column, real* out, int* hits) {
    constexpr int LANE_COLUMNS = SUM_COLUMNS / 32, TRIPS = SUM_IDS / 32, ROWS_AT_ONCE = 32 / sizeof(real);
    const int lane = threadIdx.x % 32;
    real sums[LANE_COLUMNS] = {};
    int next[TRIPS];
    const auto look = [&](int first) {
#pragma unroll
        for (int trip = 0; trip < TRIPS; ++trip) {
            const int n = first + lane + 32 * trip;
            next[trip] = n < end ? ids[n] : -1;
        }
    };
    look(begin);
    for (int first = begin; first < end; first += SUM_IDS) {
        int count = 0;
#pragma unroll
        for (int trip = 0; trip < TRIPS; ++trip) {
            const bool hit = next[trip] == id;
            const unsigned lanes = __ballot_sync(~0u, hit);
            if (hit) hits[count + __popc(lanes & ((1u << lane) - 1))] = first + lane + 32 * trip;
            count += __popc(lanes);
        }
        look(first + SUM_IDS);
        __syncwarp();
        for (int index = 0; index < count; index += ROWS_AT_ONCE) {
            real some[ROWS_AT_ONCE][LANE_COLUMNS];
#pragma unroll
            for (int i = 0; i < ROWS_AT_ONCE; ++i) {
                const real* row = rows + static_cast<long long>(hits[min(index + i, count - 1)]) * M;
#pragma unroll
                for (int j = 0; j < LANE_COLUMNS; ++j) some[i][j] = row[min(column + lane + 32 * j, M - 1)];
            }
#pragma unroll
            for (int i = 0; i < ROWS_AT_ONCE; ++i)
#pragma unroll
                for (int j = 0; j < LANE_COLUMNS; ++j) sums[j] += index + i < count ? some[i][j] : real(0);
        }
        __syncwarp();
    }
#pragma unroll
    for (int j = 0; j < LANE_COLUMNS; ++j) {
        const int m = column + lane + 32 * j;
        if (m < M) out[m] = sums[j];
    }
}
