/* persistent.cuh: the recurrence over the whole chip: who computes what, and how blocks hand over.
 *
 * The 2L-1 matrices of the recurrence are stages, in the order in which a character passes them: forward
 * R_0, P_1, R_1, ... (R recurrent, P a layer's input projection), backward R_L-1, P_L-1, R_L-2, ...
 * GROUPS groups of batch rows never meet. In a group a stage is BLOCKS blocks of UNITS units, each with its
 * part of the matrix in registers for the whole sequence. A group's rows are PARTS parts of at most ROWS, which
 * take turns: while the results of one travel, the block works on the next. Item i is part i % PARTS of step i / PARTS.
 *
 * What a step makes goes to that step's place on the tape, and nobody writes there before everybody has read: no
 * buffer is used twice in a launch. A flag for each stage and part counts the blocks that are done with a step, and
 * only grows; begin_window zeroes it. All blocks run at once (a cooperative launch), and every wait is bounded.
 */
#pragma once

#include "four.cuh"
#include "philox.cuh"
#include "step.cuh"

#ifndef GROUPS
#define GROUPS 1
#endif
#ifndef UNITS
#define UNITS 16
#endif
#ifndef PARTS
#define PARTS 1
#endif
#ifndef ROWS
#define ROWS 2
#endif
#ifndef DROPOUT
#define DROPOUT 0
#endif

constexpr int STAGES = 2 * L - 1, BLOCKS = (H + UNITS - 1) / UNITS;
constexpr int FLAG = 32;                    // a cache line for each
constexpr int AHEAD = PARTS > 2 ? 1 : 0;    // items whose rows are fetched early; with fewer parts they would not be ready
constexpr int BUFFERS = 1 + AHEAD;
constexpr int MOST = 128 / sizeof(real);    // inputs of a thread
constexpr int AT_ONCE = 2;                  // rows of a product
constexpr int ROOM = (ROWS + AT_ONCE - 1) / AT_ONCE * AT_ONCE;

/* A warp's part of a matrix [outputs,K] in registers. A thread has 4 outputs and a slice of K, which it shares with
 * LANES - 1 lanes; slices are the high bits of the lane. WARPS warps share the same outputs.
 * Rows in shared memory are slices STRIDE apart, so that lanes of different slices hit different banks; what lies
 * beyond K is 0 in the weights and must be finite there.
 */
template <int K, int LANES>
struct Tile {
    static constexpr int WARPS = (K + LANES * MOST - 1) / (LANES * MOST), SLICES = WARPS * LANES;
    static constexpr int SLICE = ((K + SLICES - 1) / SLICES + 3) / 4 * 4, STRIDE = SLICE + (SLICE / 4 % 2 ? 0 : 4);
    static constexpr int ROW = SLICES * STRIDE;           // numbers of a row
    static constexpr int OUTPUTS = 4 * (32 / LANES);      // of a warp
    Four weights[SLICE];                         // [input], of the four outputs

    static __device__ __forceinline__ int place(int k) { return k / SLICE * STRIDE + k % SLICE; }
    /* The first output and the first input of the thread. */
    static __device__ __forceinline__ int output() { return threadIdx.x / 32 / WARPS * OUTPUTS + threadIdx.x % (32 / LANES) * 4; }
    static __device__ __forceinline__ int slice() { return threadIdx.x / 32 % WARPS * LANES + threadIdx.x % 32 / (32 / LANES); }

    /* partials[WARPS][ROOM][outputs of the block] = the product with `rows` rows, each warp's share. */
    template <int BLOCK_OUTPUTS>
    __device__ __forceinline__ void multiply(const real* vectors, int rows, real* partials) const {
        const int lane = threadIdx.x % 32;
        const Four* in = reinterpret_cast<const Four*>(vectors + slice() * STRIDE);
        partials += (threadIdx.x / 32 % WARPS * ROOM + lane / 16) * BLOCK_OUTPUTS + output() + lane / 4 % 4;
#pragma unroll 1
        for (int row = 0; row < rows; row += AT_ONCE) {
            Four products[AT_ONCE] = {};
#pragma unroll
            for (int k = 0; k < SLICE / 4; ++k)
#pragma unroll
                for (int r = 0; r < AT_ONCE; ++r) {
                    const Four x = in[r * ROW / 4 + k];
                    add_scaled(weights[4 * k], x.x, products[r]);
                    add_scaled(weights[4 * k + 1], x.y, products[r]);
                    add_scaled(weights[4 * k + 2], x.z, products[r]);
                    add_scaled(weights[4 * k + 3], x.w, products[r]);
                }
            in += AT_ONCE * ROW / 4;
            real sums[4 * AT_ONCE];
#pragma unroll
            for (int r = 0; r < AT_ONCE; ++r) {
                sums[4 * r] = products[r].x, sums[4 * r + 1] = products[r].y;
                sums[4 * r + 2] = products[r].z, sums[4 * r + 3] = products[r].w;
            }
            // Halve what a lane has while halving the lanes that share it: number lane / 4 stays.
#pragma unroll
            for (int count = 4; count; count /= 2) {
                const bool upper = lane & 4 * count;
#pragma unroll
                for (int i = 0; i < count; ++i)
                    sums[i] = (upper ? sums[i + count] : sums[i]) +
                              __shfl_xor_sync(~0u, upper ? sums[i] : sums[i + count], 4 * count);
            }
#pragma unroll
            for (int distance = 2; distance >= 32 / LANES; distance /= 2)
                sums[0] += __shfl_xor_sync(~0u, sums[0], distance);
            if (LANES == 8 || !(lane & 2)) partials[row * BLOCK_OUTPUTS] = sums[0];  // of lanes that share it, one
        }
    }
};

/* This block's part of the work; its number in the grid counts units fastest, then stages, then groups. */
struct Corner {
    int block, stage, group;
    bool recurrent;
    __device__ __forceinline__ int first_unit() const { return block * UNITS; }
};
__device__ __forceinline__ Corner my_corner() {
    const int number = blockIdx.x, stage = number / BLOCKS % STAGES;
    return {number % BLOCKS, stage, number / BLOCKS / STAGES, stage % 2 == 0};
}

/* Rows [first, first + count) of part i % PARTS of step i / PARTS. */
struct Item {
    int step, part, first, count;
};
__device__ __forceinline__ Item item(const Corner& corner, int i, int B) {
    const int part = corner.group * PARTS + i % PARTS;
    const int first = static_cast<long long>(B) * part / (GROUPS * PARTS);
    const int end = static_cast<long long>(B) * (part + 1) / (GROUPS * PARTS);
    return {i / PARTS, part, first, end - first};
}

/* flags [STAGES][GROUPS * PARTS], of one direction; *stopped, Place's, is more than 1 once a block has waited too long. */
struct Flags {
    unsigned *flags, *stopped;

    __device__ __forceinline__ unsigned* of(int stage, int part) const { return flags + FLAG * (stage * GROUPS * PARTS + part); }
    /* Until what `at` needs is there: the step before of its own stage, this step of the stage before. A projection
     * needs no step before, but without that wait a block that is ahead would be counted for one that is behind.
     */
    __device__ __forceinline__ bool wait(const Corner& corner, const Item& at) const {
        bool came = true;
        if (threadIdx.x == 0) {
            if (at.step) came = wait_flag(of(corner.stage, at.part), BLOCKS * at.step, stopped);
            if (corner.stage) came = came && wait_flag(of(corner.stage - 1, at.part), BLOCKS * (at.step + 1), stopped);
        }
        return __syncthreads_and(came);
    }
    /* All that the block has written for `at` is there for others. */
    __device__ __forceinline__ void signal(const Corner& corner, const Item& at) const {
        __syncthreads();
        if (threadIdx.x == 0) add_release(of(corner.stage, at.part), 1);
    }
    __device__ __forceinline__ void fail() const {
        if (threadIdx.x == 0) add_release(stopped, 2);
    }
};

/* Zeros, so that what nobody writes is finite; all threads of the block. */
template <int THREADS>
__device__ __forceinline__ void clear(real* numbers, int count) {
    for (int i = threadIdx.x; i < count; i += THREADS) numbers[i] = 0;
}

/* `count` rows of K numbers, `pitch` apart, on their way into shared memory, in Tile's layout. */
template <class Matrix, int K, int THREADS>
__device__ __forceinline__ void fetch_rows(real* to, const real* from, long long pitch, int count) {
    constexpr int WIDTH = K % 4 ? 1 : 4;
    for (int index = threadIdx.x; index < count * (K / WIDTH); index += THREADS) {
        const int row = index / (K / WIDTH), k = index % (K / WIDTH) * WIDTH;
        real* place = to + row * Matrix::ROW + Matrix::place(k);
        const real* from_row = from + row * pitch + k;
        if constexpr (WIDTH == 4) copy_async(reinterpret_cast<Four*>(place), reinterpret_cast<const Four*>(from_row));
        else copy_async(place, from_row);
    }
}

/* fetch(item, buffer), which waits for what the item needs, then work(item, buffer), for every item. */
template <class Fetch, class Work>
__device__ __forceinline__ void run(const Corner& corner, const Flags& flags, int T, int B, Fetch fetch, Work work) {
    const auto begin = [&](int i) {
        if (i < T * PARTS && !fetch(item(corner, i, B), i % BUFFERS)) return false;
        commit_copies();
        return true;
    };
    if (gridDim.x != GROUPS * STAGES * BLOCKS || (AHEAD && !begin(0))) return flags.fail();
    for (int i = 0; i < T * PARTS; ++i) {
        if (!begin(i + AHEAD)) return flags.fail();
        wait_copies<AHEAD>();
        __syncthreads();
        const Item at = item(corner, i, B);
        work(at, i % BUFFERS);
        flags.signal(corner, at);
    }
}
