/* wavefront.cuh: who computes what, and how one layer hands over to the next.
 *
 * The 2L-1 matrices of the recurrence are stages in the order in which a character passes them: forward
 * R_0, P_1, R_1, ... (R recurrent, P a layer's input projection), backward R_L-1, P_L-1, R_L-2, ...
 * A group of threads has one stage. CLUSTER 1: one block has them all, and stage s is at step t - s
 * while stage 0 is at step t. CLUSTER 2 (two layers): the first block has stages 0 and 1, the second has
 * stage 2 and runs as fast as it is fed, a window of WINDOW steps at a time.
 * A batch row is one block's or one cluster's, so no barrier is wider than that.
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
constexpr int GROUPS = CLUSTER > 1 ? 2 : STAGES;  // of a block
constexpr int THREADS = GROUPS * GROUP;
constexpr int WINDOW = CLUSTER > 1 ? 32 : 2;                     // slots of a channel
constexpr int CHANNELS = CLUSTER > 1 ? 1 : (L > 1 ? L - 1 : 1);  // that end in a block
static_assert(CLUSTER == 1 || (CLUSTER == 2 && L == 2), "a cluster is one block a layer, for two layers");

/* What a sequence is computed from and leaves. N is T*B; n = t*B + b. */
struct Sequence {
    const real* parameters;  // [PARAMETERS]
    const int* inputs;       // [T,B]
    const int* targets;      // [T,B]; null outside training
    real* h;                 // [L,T+1,B,H]: slot t enters step t
    real* c;                 // [L,T+1,B,H]
    real* gates;             // [L,T,B,4,H]: activated; after backward the gradients of the pre-activations
    real* dropped;           // [L,T,B,H]: h' times the mask, with DROPOUT
    real* dh;                // [T,B,H]: gradient of the last layer's h'
    real* dlogits;           // [T,B,V]
    real* losses;            // [T,B]
    int T, B, b, carry;
    Dropout dropout;

    __device__ __forceinline__ long long state_at(int layer, int slot) const {
        return ((static_cast<long long>(layer) * (T + 1) + slot) * B + b) * H;
    }
    __device__ __forceinline__ long long output_at(int layer, int t) const {
        return ((static_cast<long long>(layer) * T + t) * B + b) * H;
    }
};

/* Shared memory of a block. */
struct __align__(16) Exchange {
    real vectors[L][2][8 * STRIDE];  // by step parity: forward h and, from 4 * STRIDE on, h' dropped; backward da
    real channels[CHANNELS][WINDOW][2 * GROUP];
    unsigned long long full[WINDOW];  // mbarriers, for a cluster: a slot of the channel has come
};
constexpr int DROPPED = 4 * STRIDE;

/* What a recurrent stage needs of global memory is copied into shared memory two steps ahead. (A load into a register
 * would be waited for with all later ones: the hardware counts loads, it does not tell them apart.)
 */
constexpr int AHEAD = 2, SLOTS = 4, FETCHED = 6;  // numbers of a thread, at most
struct Fetched {
    real numbers[L][SLOTS][FETCHED][GROUP];
};

/* A number that is the same in the whole warp, which the compiler then knows, and does not compute again later on. */
__device__ __forceinline__ int uniform(int number) { return __shfl_sync(~0u, number, 0); }

struct Stage {
    int number, layer, delay, thread, warp, lane;
    bool working, recurrent;
};

/* This thread's stage, in forward order; `order` is the block's place in that order. */
__device__ __forceinline__ Stage my_stage(int order) {
    const int group = uniform(threadIdx.x / GROUP), number = 2 * order + group;
    const int thread = threadIdx.x % GROUP;
    return {number, (number + 1) / 2, group, thread, thread / 32, thread % 32, number < STAGES, number % 2 == 0};
}

__device__ __forceinline__ int block_rank() {
#if CLUSTER > 1
    return cluster_rank();
#else
    return 0;
#endif
}

/* Whether a thread has a unit. */
__device__ __forceinline__ bool is_unit(int unit) { return H % 16 == 0 || unit < H; }

/* All blocks of a row. */
__device__ __forceinline__ void sync_row() {
#if CLUSTER > 1
    cluster_sync();
#else
    __syncthreads();
#endif
}

/* Zero vectors, so that what lies beyond H is finite, and mbarriers ready. */
__device__ __forceinline__ void clear(Exchange& exchange) {
    real* vectors = &exchange.vectors[0][0][0];
    for (int index = threadIdx.x; index < L * 2 * 8 * STRIDE; index += THREADS) vectors[index] = 0;
    __syncthreads();
}

__device__ __forceinline__ void prepare(Exchange& exchange) {
#if CLUSTER > 1
    if (threadIdx.x < WINDOW) mbarrier_init(&exchange.full[threadIdx.x], 1);
    cluster_sync();
#endif
}

/* Slot of step number `step` of the channel into the recurrent stage of `layer`. */
__device__ __forceinline__ real* slot(Exchange& exchange, int layer, unsigned step) {
    return exchange.channels[CLUSTER > 1 ? 0 : layer % CHANNELS][step % WINDOW];
}

/* Numbers for the next stage, whose block in a cluster is `receiver`. */
template <class... Numbers>
__device__ __forceinline__ void hand_over(
    Exchange& exchange, int layer, unsigned step, int receiver, int index, Numbers... numbers) {
    real* to = slot(exchange, layer, step) + index;
#if CLUSTER > 1
    send(to, receiver, numbers..., &exchange.full[step % WINDOW]);
#else
    ((*to++ = numbers), ...);
#endif
}
/* Numbers from the stage before. */
template <class... Numbers>
__device__ __forceinline__ void received(Exchange& exchange, int layer, unsigned step, int index, Numbers&... numbers) {
#if CLUSTER > 1
    mbarrier_wait(&exchange.full[step % WINDOW], step / WINDOW % 2);
#endif
    const real* from = slot(exchange, layer, step) + index;
    ((numbers = *from++), ...);
}

/* The address `steps` steps after `base`, `bytes` apart: one instruction. */
template <class Number>
__device__ __forceinline__ Number* steps_after(Number* base, int steps, int bytes) {
    return (Number*)((char*)base + static_cast<long long>(steps) * bytes);
}

/* Run `work(step)` for every step of the sequence, each stage at its delay. bytes: of what is handed over in a step. */
template <class Work>
__device__ __forceinline__ void run(Exchange& exchange, const Stage& stage, int T, int bytes, Work work) {
    const int length = CLUSTER > 1 ? WINDOW : T;
    for (int begin = 0; begin < T; begin += length) {
        const int end = min(T, begin + length);
#if CLUSTER > 1
        if (begin) sync_row();
        if (stage.number >= 2 && threadIdx.x < end - begin) mbarrier_expect(&exchange.full[threadIdx.x], bytes);
#endif
        const unsigned steps = uniform(stage.working ? end - begin : 0);
        unsigned step = -stage.delay;
        for (int left = uniform(end - begin + GROUPS - 1); left; --left, ++step) {
            if (step < steps) work(begin + step);
            __syncthreads();
        }
    }
}
