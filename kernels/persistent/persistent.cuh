/* persistent.cuh: the persistent regime, a recurrence over the whole chip: which block computes what, and how blocks
 * hand over.
 *
 * The recurrence has 2L-1 matrices, its stages, numbered in the order in which a character passes them: forward
 * R_0, P_1, R_1, ... (R recurrent, P a layer's input projection), backward R_L-1, P_L-1, R_L-2, ...
 * The batch is divided into GROUPS groups of rows, which never meet. In a group each stage is computed by BLOCKS blocks
 * of UNITS hidden units, and a block keeps its share of the stage's matrix in registers for the whole window. A group's
 * rows are divided again where shared memory has no room for all of them: into PARTS parts of at most ROWS rows, which
 * take turns. An item of work is one part at one time step. A block does items 0, 1, 2, ... in turn:
 *   item i is part i % PARTS of the group at time step i / PARTS.
 * Here `time_step` counts in the order of processing: forward it is t, backward it is T - 1 - t.
 *
 * What a block computes for a time step it writes to that time step's own place on the tape, so that nobody has to wait
 * for readers of another. For each stage and part there is a flag: it counts the blocks that are done, over all time
 * steps, and only grows; begin_window sets it to zero. A block adds to it once, for all of its warps, since all that is
 * added to a flag queues at one place in the L2 cache. All blocks run at once (a cooperative launch), and every wait is
 * bounded.
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
constexpr int FLAG_WORDS = 32;  // a cache line for each flag

/* What this block computes. Blocks are numbered with units fastest, then stages, then groups. */
struct Assignment {
    int block;         // which UNITS units of the stage
    int stage, group;
    bool recurrent;    // the stage's matrix is a recurrent one, else an input projection
};
__device__ __forceinline__ Assignment my_assignment() {
    const int number = blockIdx.x, stage = number / BLOCKS % STAGES;
    return {number % BLOCKS, stage, number / BLOCKS / STAGES, stage % 2 == 0};
}

/* One part at one time step. */
struct Item {
    int time_step;
    int part;          // among the parts of all groups
    int first, count;  // the part's batch rows: [first, first + count)
};
__device__ __forceinline__ Item item_number(const Assignment& own, int i, int B) {
    const int part = own.group * PARTS + i % PARTS;
    const int first = static_cast<unsigned>(B) * part / (GROUPS * PARTS);
    const int end = static_cast<unsigned>(B) * (part + 1) / (GROUPS * PARTS);
    return {i / PARTS, part, first, end - first};
}

/* The flags of one direction, [STAGES][GROUPS * PARTS], and ChunkPosition's `stopped`, which is more than 1 once a
 * block has waited too long.
 */
struct Flags {
    unsigned *flags, *stopped;

    __device__ __forceinline__ unsigned* of(int stage, int part) const {
        return flags + FLAG_WORDS * (stage * GROUPS * PARTS + part);
    }
    /* A warp waits until what `item` needs is there: its own stage's time step before, and this time step of the stage
     * before. Returns false where that was in vain. A projection does not need its own time step before, but without
     * that wait a block that is ahead would be counted for one that is behind.
     */
    __device__ __forceinline__ bool wait(const Assignment& own, const Item& item) const {
        bool came = true;
        if (threadIdx.x % 32 == 0) {
            if (item.time_step) came = wait_flag(of(own.stage, item.part), BLOCKS * item.time_step, stopped);
            if (own.stage)
                came = came && wait_flag(of(own.stage - 1, item.part), BLOCKS * (item.time_step + 1), stopped);
        }
        __syncwarp();
        return came;
    }
    /* Tells others that all that this block has written for `item` is there. All threads of the block call it. */
    __device__ __forceinline__ void signal(const Assignment& own, const Item& item) const {
        __syncthreads();
        if (threadIdx.x == 0) add_release(of(own.stage, item.part), 1);
    }
    /* Tells all blocks, and the host, that this one has given up. */
    __device__ __forceinline__ void fail() const {
        if (threadIdx.x == 0) add_release(stopped, 2);
    }
};

/* dropout_factor of a unit at time step t for batch row b, as a call: its registers are needed for weights otherwise. */
__device__ __noinline__ real called_dropout_factor(const Dropout& dropout, int layer, int t, int b, int unit) {
    return dropout_factor(dropout, layer, dropout.row(t, b) * H + unit);
}

/* Writes zeros, so that what nobody writes is finite. All threads of the block call it. */
template <int THREADS>
__device__ __forceinline__ void clear(real* numbers, int count) {
    for (int i = threadIdx.x; i < count; i += THREADS) numbers[i] = 0;
}

/* Starts copying `count` rows of K numbers into shared memory, in the layout of Layout, a Tile or TensorTile. */
template <class Layout, int K, int THREADS>
__device__ __forceinline__ void fetch_rows(real* to, const real* from, int count) {
    constexpr int WIDTH = K % 4 ? 1 : 4;
#ifdef PRECISION
#pragma unroll 1  // fragments leave no registers for several copies at a time
#endif
    for (int index = threadIdx.x; index < count * (K / WIDTH); index += THREADS) {
        const int row = index / (K / WIDTH), k = index % (K / WIDTH) * WIDTH;
        real* to_k = to + row * Layout::ROW_LENGTH + Layout::index_in_row(k);
        const real* from_k = from + index * WIDTH;
        if constexpr (WIDTH == 4) copy_async(reinterpret_cast<Four*>(to_k), reinterpret_cast<const Four*>(from_k));
        else copy_async(to_k, from_k);
    }
}

/* Calls, for every item, fetch(item), which waits for what the item needs and starts copying it, and then work(item).
 * Each warp waits by itself. All warps meet three times an item: here when the rows have come, in `work` when the
 * products are done, and in signal when the item is done.
 */
template <class Fetch, class Work>
__device__ __forceinline__ void run(const Assignment& own, const Flags& flags, int T, int B, Fetch fetch, Work work) {
    if (gridDim.x != GROUPS * STAGES * BLOCKS) return flags.fail();
    for (int i = 0; i < T * PARTS; ++i) {
        const Item item = item_number(own, i, B);
        const bool came = fetch(item);
        commit_copies();
        wait_copies<0>();
        if (!__syncthreads_and(came)) return flags.fail();
        work(item);
        flags.signal(own, item);
    }
}
