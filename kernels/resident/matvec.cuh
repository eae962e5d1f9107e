/* matvec.cuh: a matrix held in the registers of a team of threads, times a vector in shared memory.
 *
 * A team has two threads for every hidden unit, 16 units a warp. A thread holds 4 * SLICE weights, where SLICE is half
 * of H, rounded up to a multiple of 4. Of a weight matrix W [4H,K], K = H, whose rows are the four gates of all units:
 *   Rows     forward: a thread holds all four gates of one unit for half of K; the team multiplies W by a vector [K]
 *   Columns  backward: a thread holds four of the K for half of one gate's units; the team multiplies W transposed by a
 *            vector [4,H]
 * Where H is not a multiple of what the threads divide it into, the weights beyond H are 0, and the vector's numbers
 * there must be finite.
 * A vector lies in shared memory as slices of SLICE numbers, STRIDE apart, so that lanes of different slices read
 * different banks. A gate is two slices.
 */
#pragma once

#include "common/four.cuh"

constexpr int TEAM = 32 * ((H + 15) / 16);  // threads
constexpr int SLICE = ((H + 1) / 2 + 3) / 4 * 4;
constexpr int STRIDE = SLICE + (SLICE / 4 % 2 ? 0 : 4);

/* The index of `unit` of gate `gate` in a vector [4,H] in shared memory; gate 0 for a vector [H]. */
__device__ __forceinline__ int vector_index(int unit, int gate = 0) {
    return (2 * gate + unit / SLICE) * STRIDE + unit % SLICE;
}

/* W for products with a vector [K]. The thread's unit is 16 * warp + lane % 16. Lanes below 16, the low ones, hold the
 * first half of K, the high ones the second.
 */
struct Rows {
    Four weights[4][SLICE / 4];  // [gate][four numbers of k]

    __device__ __forceinline__ void load(const real* matrix, int unit, bool high) {
#pragma unroll
        for (int gate = 0; gate < 4; ++gate)
#pragma unroll
            for (int k = 0; k < SLICE / 4; ++k)
                weights[gate][k] = H % 16 == 0 || unit < H
                                       ? load_four<H>(matrix + (gate * H + unit) * H, high * SLICE + 4 * k)
                                       : Four{};
    }

    /* The unit's four sums over K, two in each of its lanes: first and second are those of i and g in the low lane,
     * those of f and o in the high one. A lane adds its half in the order of k; the two halves are added last.
     */
    __device__ __forceinline__ void product(const real* vector, bool high, real& first, real& second) const {
        const Four* slice = reinterpret_cast<const Four*>(vector + high * STRIDE);
        real sums[4] = {};
#pragma unroll
        for (int k = 0; k < SLICE / 4; ++k) {
            const Four x = slice[k];
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) add_product(weights[gate][k], x, sums[gate]);
        }
        first = high ? sums[1] : sums[0];
        first += __shfl_xor_sync(~0u, high ? sums[0] : sums[1], 16);
        second = high ? sums[3] : sums[2];
        second += __shfl_xor_sync(~0u, high ? sums[2] : sums[3], 16);
    }
};

/* W transposed for products with a vector [4,H]. The thread's four outputs are 16 * warp + 4 * (lane % 4) + {0,1,2,3},
 * and its slice of the vector, half of a gate, is number lane / 4: eight lanes share the same outputs.
 */
struct Columns {
    Four weights[SLICE];  // [number of the slice], of the four outputs

    __device__ __forceinline__ void load(const real* matrix, int warp, int lane) {
        const int gate = lane / 8, half = lane / 4 % 2;
#pragma unroll
        for (int j = 0; j < SLICE; ++j) {
            const int unit = half * SLICE + j;
            weights[j] = H % 8 == 0 || unit < H
                             ? load_four<H>(matrix + (gate * H + unit) * H, 16 * warp + 4 * (lane % 4))
                             : Four{};
        }
    }

    /* The sum over all four gates' units for output unit_of(warp, lane). A lane adds its slice in order, for four
     * outputs. Then lanes 16, 8 and 4 apart exchange and add sums: after each of the first two exchanges a lane goes on
     * with half as many outputs, and in the end two lanes have the same one.
     */
    __device__ __forceinline__ real product(const real* vector, int lane) const {
        const Four* slice = reinterpret_cast<const Four*>(vector + lane / 4 * STRIDE);
        Four sums = {};
#pragma unroll
        for (int j = 0; j < SLICE / 4; ++j) {
            const Four x = slice[j];
            add_scaled(weights[4 * j], x.x, sums);
            add_scaled(weights[4 * j + 1], x.y, sums);
            add_scaled(weights[4 * j + 2], x.z, sums);
            add_scaled(weights[4 * j + 3], x.w, sums);
        }
        const bool upper = lane & 16, odd = lane & 8;
        real first = upper ? sums.z : sums.x, second = upper ? sums.w : sums.y;
        first += __shfl_xor_sync(~0u, upper ? sums.x : sums.z, 16);
        second += __shfl_xor_sync(~0u, upper ? sums.y : sums.w, 16);
        real sum = odd ? second : first;
        sum += __shfl_xor_sync(~0u, odd ? first : second, 8);
        return sum + __shfl_xor_sync(~0u, sum, 4);
    }

    /* The output whose sum `product` returns to a lane; lanes n and n ^ 4 have the same. */
    static __device__ __forceinline__ int unit_of(int warp, int lane) {
        return 16 * warp + 4 * (lane % 4) + (lane & 16 ? 2 : 0) + (lane & 8 ? 1 : 0);
    }
};
