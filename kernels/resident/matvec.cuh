/* matvec.cuh: a matrix held in the registers of a group of threads, times a vector in shared memory.
 *
 * A group is 2 threads for every unit, 16 units a warp; a thread holds 4 * SLICE weights, SLICE being
 * half of H. Of a weight matrix [4H,K], K = H:
 *   Rows     a thread has the 4 gates of one unit and half of K: W times a vector [K]
 *   Columns  a thread has 4 of the K and half of one gate's units: W transposed times a vector [4H]
 * What lies beyond H is 0 in the weights and must be finite in the vector.
 * A vector is in slices of SLICE numbers, STRIDE apart, so that lanes of different slices hit different banks.
 */
#pragma once

#include "common/four.cuh"

constexpr int GROUP = 32 * ((H + 15) / 16);
constexpr int SLICE = ((H + 1) / 2 + 3) / 4 * 4;
constexpr int STRIDE = SLICE + (SLICE / 4 % 2 ? 0 : 4);

/* Where `unit` of gate `gate` is in a vector [4,H]; gate 0 for a vector [H]. */
__device__ __forceinline__ int place(int unit, int gate = 0) {
    return (2 * gate + unit / SLICE) * STRIDE + unit % SLICE;
}

/* The thread's unit is 16 * warp + lane % 16; lanes below 16 have the first half of K. */
struct Rows {
    Four weights[4][SLICE / 4];

    __device__ __forceinline__ void load(const real* matrix, int unit, bool high) {
#pragma unroll
        for (int gate = 0; gate < 4; ++gate)
#pragma unroll
            for (int k = 0; k < SLICE / 4; ++k)
                weights[gate][k] =
                    H % 16 == 0 || unit < H ? load_four<H>(matrix + (gate * H + unit) * H, high * SLICE + 4 * k) : Four{};
    }

    /* Sums of i and g in the low lanes, of f and o in the high ones. */
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

/* The thread's four outputs are 16 * warp + 4 * (lane % 4) + {0,1,2,3}; lane / 4 is its slice of the [4,H]. */
struct Columns {
    Four weights[SLICE];  // of the four outputs

    __device__ __forceinline__ void load(const real* matrix, int warp, int lane) {
        const int gate = lane / 8, half = lane / 4 % 2;
#pragma unroll
        for (int j = 0; j < SLICE; ++j) {
            const int unit = half * SLICE + j;
            weights[j] = H % 8 == 0 || unit < H ? load_four<H>(matrix + (gate * H + unit) * H, 16 * warp + 4 * (lane % 4)) : Four{};
        }
    }

    /* The sum for `unit_of(warp, lane)`. */
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

    /* Two lanes, 4 apart, have each unit. */
    static __device__ __forceinline__ int unit_of(int warp, int lane) {
        return 16 * warp + 4 * (lane % 4) + (lane & 16 ? 2 : 0) + (lane & 8 ? 1 : 0);
    }
};
