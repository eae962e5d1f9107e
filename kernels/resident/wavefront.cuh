/* wavefront.cuh: the resident regime: which threads compute what, and how one stage hands over to the next.
 *
 * The recurrence has 2L-1 matrices, its stages, numbered in the order in which a character passes them: forward
 * R_0, P_1, R_1, ... (R recurrent, P a layer's input projection), backward R_L-1, P_L-1, R_L-2, ...
 * Each stage is one team of threads, which holds its matrix in registers (matvec.cuh). All teams work at the same time,
 * as a wavefront: stage s is at time step t - s while stage 0 is at time step t.
 *   CLUSTER 1: one block has the teams of all stages, and a barrier of the block separates time steps.
 *   CLUSTER 2, for two layers: the first block has stages 0 and 1, the second has stage 2. The second block runs as
 *     fast as the first feeds it, through a channel of CHANNEL_SLOTS slots, one for each time step; when the slots are
 *     used up, the two blocks meet and the slots are used again.
 * A batch row belongs to one block or one cluster, so no barrier is wider than that.
 *
 * In this regime `time_step` counts in the order of processing: forward it is t, backward it is T - 1 - t.
 */
#pragma once

#include "common/dropout.cuh"
#include "resident/matvec.cuh"

#ifndef CLUSTER
#define CLUSTER 1
#endif
#ifndef DROPOUT
#define DROPOUT 0
#endif

constexpr int STAGES = 2 * L - 1;
constexpr int TEAMS = CLUSTER > 1 ? 2 : STAGES;  // of a block
constexpr int THREADS = TEAMS * TEAM;
constexpr int CHANNEL_SLOTS = CLUSTER > 1 ? 32 : 2;              // time steps that a channel has room for
constexpr int CHANNELS = CLUSTER > 1 ? 1 : (L > 1 ? L - 1 : 1);  // of a block: those into which its stages receive
static_assert(CLUSTER == 1 || (CLUSTER == 2 && L == 2), "expected CLUSTER 1, or 2 with two layers, a block for each");

/* What one batch row is computed from, and where its results go. `b` is the row. */
struct Sequence {
    const real* parameters;  // [PARAMETERS]: the flat buffer, shape.cuh
    const int* inputs;       // [T,B]
    real* h;                 // [L,T+1,B,H]: slot t is the h that enters time step t
    real* c;                 // [L,T+1,B,H]: likewise
    real* gates;             // [L,T,B,4,H]: activated; backward puts the gradients of the pre-activations there
    real* dropped;           // [L,T,B,H]: h' times the mask; only with DROPOUT
    real* dh;                // [T,B,H]: gradient of the last layer's h'
    real* dlogits;           // [T,B,V]
    real* losses;            // [T,B]
    int T, B, b, carry;      // carry: begin with the state in slot T, else with zeros
    Dropout dropout;

    /* The index of unit 0 of this row in h and c. */
    __device__ __forceinline__ long long state_at(int layer, int slot) const {
        return ((static_cast<long long>(layer) * (T + 1) + slot) * B + b) * H;
    }
    /* The index of unit 0 of this row in an array [L,T,B,H]. */
    __device__ __forceinline__ long long output_at(int layer, int t) const {
        return ((static_cast<long long>(layer) * T + t) * B + b) * H;
    }
    /* The number of unit 0 of this row's output among dropout's elements. */
    __device__ __forceinline__ long long element_at(int t) const { return dropout.row(t, b) * H; }
};

/* A block's shared memory for what its stages exchange. */
struct __align__(16) Exchange {
    // What products read, in turns for even and for odd time steps: forward h, and from DROPPED on h' times the mask;
    // backward da.
    real vectors[L][2][8 * STRIDE];
    real channels[CHANNELS][CHANNEL_SLOTS][2 * TEAM];  // what a projection hands to a recurrent stage
    unsigned long long full[CHANNEL_SLOTS];  // only in clusters: a slot's mbarrier, whose phase is over once it is full
};
constexpr int DROPPED = 4 * STRIDE;

/* What a recurrent stage needs of global memory is copied into shared memory AHEAD time steps before it is used. A load
 * into a register would be waited for with all later ones: the hardware counts loads, it does not tell them apart.
 */
constexpr int AHEAD = 2;
constexpr int FETCH_SLOTS = 4;    // time steps whose copies have room
constexpr int FETCH_NUMBERS = 6;  // that a thread copies for a time step, at most
struct Fetched {
    real numbers[L][FETCH_SLOTS][FETCH_NUMBERS][TEAM];
};

/* `number`, which must be the same in the whole warp. The compiler then knows that, and does not compute it again. */
__device__ __forceinline__ int uniform(int number) { return __shfl_sync(~0u, number, 0); }

/* What a thread belongs to. */
struct Stage {
    int number;  // of the stage, in the order in which a character passes them
    int layer;   // of the stage in a forward pass; backward counts layers from the last one
    int delay;   // time steps by which the stage is behind the block's first
    int thread, warp, lane;  // thread and warp within the team
    bool working;            // false where there is no such stage: the second block of a cluster has a team to spare
    bool recurrent;          // a recurrent matrix, else an input projection
};

/* This thread's stage. `order`: how many blocks of the cluster a character passes before this one. */
__device__ __forceinline__ Stage my_stage(int order) {
    const int team = uniform(threadIdx.x / TEAM), number = 2 * order + team;
    const int thread = threadIdx.x % TEAM;
    return {number, (number + 1) / 2, team, thread, thread / 32, thread % 32, number < STAGES, number % 2 == 0};
}

__device__ __forceinline__ int block_rank() {
#if CLUSTER > 1
    return cluster_rank();
#else
    return 0;
#endif
}

/* Whether there is such a unit: teams are rounded up to 16 units. */
__device__ __forceinline__ bool is_unit(int unit) { return H % 16 == 0 || unit < H; }

/* A barrier for all threads that work on a batch row. */
__device__ __forceinline__ void sync_row() {
#if CLUSTER > 1
    cluster_sync();
#else
    __syncthreads();
#endif
}

/* Vectors become zero, so that what lies beyond H is finite. All threads of the block call it. */
__device__ __forceinline__ void clear(Exchange& exchange) {
    real* vectors = &exchange.vectors[0][0][0];
    for (int index = threadIdx.x; index < L * 2 * 8 * STRIDE; index += THREADS) vectors[index] = 0;
    __syncthreads();
}

/* Mbarriers become ready for use, in both blocks of a cluster. Once, before everything else. */
__device__ __forceinline__ void prepare(Exchange& exchange) {
#if CLUSTER > 1
    if (threadIdx.x < CHANNEL_SLOTS) mbarrier_init(&exchange.full[threadIdx.x], 1);
    cluster_sync();
#endif
}

/* The slot of a time step in the channel into the recurrent stage of `layer`. */
__device__ __forceinline__ real* channel_slot(Exchange& exchange, int layer, unsigned time_step) {
    return exchange.channels[CLUSTER > 1 ? 0 : layer % CHANNELS][time_step % CHANNEL_SLOTS];
}

/* Writes numbers for the next stage into the slot, from `index` on. `receiver`: the next stage's block in a cluster. */
template <class... Numbers>
__device__ __forceinline__ void hand_over(
    Exchange& exchange, int layer, unsigned time_step, int receiver, int index, Numbers... numbers) {
    real* to = channel_slot(exchange, layer, time_step) + index;
#if CLUSTER > 1
    send(to, receiver, numbers..., &exchange.full[time_step % CHANNEL_SLOTS]);
#else
    ((*to++ = numbers), ...);
#endif
}
/* Reads the numbers that the stage before has written; in a cluster waits until the whole slot has come. */
template <class... Numbers>
__device__ __forceinline__ void received(
    Exchange& exchange, int layer, unsigned time_step, int index, Numbers&... numbers) {
#if CLUSTER > 1
    mbarrier_wait(&exchange.full[time_step % CHANNEL_SLOTS], time_step / CHANNEL_SLOTS % 2);
#endif
    const real* from = channel_slot(exchange, layer, time_step) + index;
    ((numbers = *from++), ...);
}

/* The address `count` times `bytes` behind base, in one instruction. */
template <class Number>
__device__ __forceinline__ Number* advance(Number* base, int count, int bytes) {
    return (Number*)((char*)base + static_cast<long long>(count) * bytes);
}

/* Calls work(time_step) for every time step of the sequence in the order of processing, each stage with its delay, with
 * a barrier of the block after each. bytes: what is handed over to a block in a time step.
 * In a cluster the sequence is cut into pieces of as many time steps as a channel has slots. Between two pieces the
 * blocks meet, so that no slot is written while it is still read; within a piece the second block waits for the first
 * only through the slots' mbarriers.
 */
template <class Work>
__device__ __forceinline__ void run(Exchange& exchange, const Stage& stage, int T, int bytes, Work work) {
    const int length = CLUSTER > 1 ? CHANNEL_SLOTS : T;
    for (int begin = 0; begin < T; begin += length) {
        const int end = min(T, begin + length);
#if CLUSTER > 1
        if (begin) sync_row();
        if (stage.number >= 2 && threadIdx.x < end - begin) mbarrier_expect(&exchange.full[threadIdx.x], bytes);
#endif
        const unsigned count = uniform(stage.working ? end - begin : 0);
        unsigned index = -stage.delay;  // of the time step in the piece; before the stage's turn it is huge
        for (int left = uniform(end - begin + TEAMS - 1); left; --left, ++index) {
            if (index < count) work(begin + index);
            __syncthreads();
        }
    }
}
