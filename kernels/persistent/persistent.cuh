/* persistent.cuh: the recurrence over the whole chip: who computes what, and how blocks hand over.
 *
 * The 2L-1 matrices of the recurrence are stages, in the order in which a character passes them: forward
 * R_0, P_1, R_1, ... (R recurrent, P a layer's input projection), backward R_L-1, P_L-1, R_L-2, ...
 * GROUPS groups of batch rows never meet. In a group a stage is BLOCKS blocks of UNITS units, each with its part of the
 * matrix in registers for the whole sequence. Where shared memory has no room for all of a group's rows, they are PARTS
 * parts of at most ROWS, which take turns. Item i is part i % PARTS of step i / PARTS.
 *
 * What a step makes goes to that step's own place on the tape, so that no step waits for readers of another. A flag for
 * each stage and part counts the blocks that are done with a step, and only grows; begin_window zeroes it. A block adds to
 * it once, for all of its warps, since all that is added to a flag queues at one place in the L2 cache. All blocks run at
 * once (a cooperative launch), and every wait is bounded.
 */
#pragma once

#include "common/dropout.cuh"
#include "common/step.cuh"
#include "persistent/tile.cuh"

#ifndef GROUPS
#define GROUPS 1
#endif
#ifndef UNITS
#define UNITS 16
#endif
#ifndef PARTS
#define PARTS 1
#endif
#ifndef DROPOUT
#define DROPOUT 0
#endif

constexpr int STAGES = 2 * L - 1, BLOCKS = (H + UNITS - 1) / UNITS;
constexpr int FLAG = 32;  // a cache line for each

/* This block's part of the work; its number in the grid counts units fastest, then stages, then groups. */
struct Corner {
    int block, stage, group;
    bool recurrent;
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
    const int first = static_cast<unsigned>(B) * part / (GROUPS * PARTS);
    const int end = static_cast<unsigned>(B) * (part + 1) / (GROUPS * PARTS);
    return {i / PARTS, part, first, end - first};
}

/* flags [STAGES][GROUPS * PARTS], of one direction; *stopped, Place's, is more than 1 once a block has waited too long. */
struct Flags {
    unsigned *flags, *stopped;

    __device__ __forceinline__ unsigned* of(int stage, int part) const { return flags + FLAG * (stage * GROUPS * PARTS + part); }
    /* For a warp: until what `at` needs is there, the step before of its own stage, this step of the stage before. A
     * projection needs no step before, but without that wait a block that is ahead would be counted for one that is behind.
     */
    __device__ __forceinline__ bool wait(const Corner& corner, const Item& at) const {
        bool came = true;
        if (threadIdx.x % 32 == 0) {
            if (at.step) came = wait_flag(of(corner.stage, at.part), BLOCKS * at.step, stopped);
            if (corner.stage) came = came && wait_flag(of(corner.stage - 1, at.part), BLOCKS * (at.step + 1), stopped);
        }
        __syncwarp();
        return came;
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

/* dropout_factor as a call, since its registers are needed for weights otherwise. */
__device__ __noinline__ real factor(const Dropout& dropout, int layer, long long element) {
    return dropout_factor(dropout, layer, element);
}

/* Zeros, so that what nobody writes is finite; all threads of the block. */
template <int THREADS>
__device__ __forceinline__ void clear(real* numbers, int count) {
    for (int i = threadIdx.x; i < count; i += THREADS) numbers[i] = 0;
}

/* `count` rows of K numbers on their way into shared memory, in Tile's layout. */
template <class Matrix, int K, int THREADS>
__device__ __forceinline__ void fetch_rows(real* to, const real* from, int count) {
    constexpr int WIDTH = K % 4 ? 1 : 4;
#ifdef PRECISION
#pragma unroll 1  // fragments leave no registers for several copies at a time
#endif
    for (int index = threadIdx.x; index < count * (K / WIDTH); index += THREADS) {
        const int row = index / (K / WIDTH), k = index % (K / WIDTH) * WIDTH;
        real* place = to + row * Matrix::ROW + Matrix::place(k);
        const real* from_row = from + index * WIDTH;
        if constexpr (WIDTH == 4) copy_async(reinterpret_cast<Four*>(place), reinterpret_cast<const Four*>(from_row));
        else copy_async(place, from_row);
    }
}

/* fetch(item), which waits for what the item needs, then work(item), for every item. Warps wait by themselves, and meet
 * where the rows have come, where, in work, the sums have, and where the item is done.
 */
template <class Fetch, class Work>
__device__ __forceinline__ void run(const Corner& corner, const Flags& flags, int T, int B, Fetch fetch, Work work) {
    if (gridDim.x != GROUPS * STAGES * BLOCKS) return flags.fail();
    for (int i = 0; i < T * PARTS; ++i) {
        const Item at = item(corner, i, B);
        const bool came = fetch(at);
        commit_copies();
        wait_copies<0>();
        if (!__syncthreads_and(came)) return flags.fail();
        work(at);
        flags.signal(corner, at);
    }
}
