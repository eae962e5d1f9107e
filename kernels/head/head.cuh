/* head.cuh: logits, softmax, cross-entropy and dlogits of some rows in one pass, V staying on the chip.
 *   logits[n] = W h'[n] + b    loss[n] = log(sum_v exp logits[n,v]) - logits[n,target_n]
 *   dlogits[n,v] = (softmax(logits[n])[v] - (v = target_n)) / N
 * A warp has EACH rows, a lane every 32nd character; W and h' come through shared memory, CHUNK of H at a time.
 * Source: softmax minus one-hot; Bishop 2006, section 4.3.4. Reference: numpy_engine.cross_entropy
 */
#pragma once

#include "common/four.cuh"

constexpr int CHARACTERS = (V + 31) / 32;  // of a lane

/* `ROWS` rows of CHUNK numbers, padded so that rows of different lanes start in different banks. */
template <int ROWS, int CHUNK>
struct __align__(16) HeadRows {
    static constexpr int STRIDE = CHUNK + (CHUNK / 4 % 2 ? 0 : 4);
    real rows[ROWS][STRIDE];

    /* Columns [begin, begin + CHUNK) of the first `count` of some rows [H], `step` numbers apart; zeros after them. They are
     * there after a commit, wait_copies and a barrier.
     */
    template <int THREADS_OF_BLOCK>
    __device__ __forceinline__ void fetch(const real* from, long long step, int count, int begin) {
        constexpr int FOURS = ROWS * (CHUNK / 4), TRIPS = (FOURS + THREADS_OF_BLOCK - 1) / THREADS_OF_BLOCK;
        constexpr int AT_ONCE = TRIPS < 8 ? TRIPS : 8;
#pragma unroll AT_ONCE
        for (int trip = 0; trip < TRIPS; ++trip) {
            const int index = trip * THREADS_OF_BLOCK + threadIdx.x;
            const int row = index / (CHUNK / 4), k = index % (CHUNK / 4) * 4;
            if (FOURS % THREADS_OF_BLOCK && index >= FOURS) break;
            Four* to = reinterpret_cast<Four*>(&rows[row][k]);
            if (row >= count || begin + k >= H) *to = {};
            else if (H % 4 == 0) copy_async(to, reinterpret_cast<const Four*>(from + row * step + begin + k));
            else *to = load_four<H>(from + row * step, begin + k);
        }
    }

    __device__ __forceinline__ Four at(int row, int k) const { return *reinterpret_cast<const Four*>(&rows[row][k]); }
};

template <int CHUNK>
using HeadWeights = HeadRows<32 * CHARACTERS, CHUNK>;

/* logits[r][j] += W h' over a chunk, for this warp's rows and this lane's characters. */
template <int EACH, int ROWS, int CHUNK>
__device__ __forceinline__ void add_logits(
    const HeadWeights<CHUNK>& weights, const HeadRows<ROWS, CHUNK>& hidden, real (&logits)[EACH][CHARACTERS]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int k = 0; k < CHUNK; k += 4) {
        Four h[EACH];
#pragma unroll
        for (int r = 0; r < EACH; ++r) h[r] = hidden.at(warp * EACH + r, k);
#pragma unroll
        for (int j = 0; j < CHARACTERS; ++j) {
            const Four w = weights.at(lane + 32 * j, k);
#pragma unroll
            for (int r = 0; r < EACH; ++r) add_product(w, h[r], logits[r][j]);
        }
    }
}

/* From this warp's logits, without bias, to losses [N] and dlogits [N,V] (to logits where targets is null).
 * Row r of the warp is n = first + r * step, for r < count; `logits` becomes what is stored, 0 for the other rows.
 */
template <int EACH>
__device__ __forceinline__ void finish_rows(
    const real* bias, const int* targets, real* dlogits, real* losses, long long first, int step, int count, int N,
    real (&logits)[EACH][CHARACTERS]) {
    const int lane = threadIdx.x % 32;
    real biases[CHARACTERS];
#pragma unroll
    for (int j = 0; j < CHARACTERS; ++j) biases[j] = lane + 32 * j < V ? bias[lane + 32 * j] : real(0);
    int target[EACH];
#pragma unroll
    for (int r = 0; r < EACH; ++r) target[r] = targets && r < count ? targets[first + static_cast<long long>(r) * step] : 0;
#pragma unroll
    for (int r = 0; r < EACH; ++r) {
        real largest = LOWEST, chosen = 0, sum = 0;
#pragma unroll
        for (int j = 0; j < CHARACTERS; ++j) {
            real& logit = logits[r][j];
            logit = lane + 32 * j < V ? logit + biases[j] : LOWEST;
            largest = max(largest, logit);
            if (lane + 32 * j == target[r]) chosen = logit;
        }
        if (targets) {
            largest = warp_max(largest);
            chosen = warp_sum(chosen);
#pragma unroll
            for (int j = 0; j < CHARACTERS; ++j) sum += logits[r][j] = exp(logits[r][j] - largest);
            sum = warp_sum(sum);
            if (lane == 0 && r < count) losses[first + static_cast<long long>(r) * step] = log(sum) + (largest - chosen);
            const real scale = 1 / (sum * N);
#pragma unroll
            for (int j = 0; j < CHARACTERS; ++j)
                logits[r][j] = logits[r][j] * scale - (lane + 32 * j == target[r] ? real(1) / N : real(0));
        }
#pragma unroll
        for (int j = 0; j < CHARACTERS; ++j) {
            const int v = lane + 32 * j;
            if (r >= count) logits[r][j] = 0;
            else if (v < V) dlogits[(first + static_cast<long long>(r) * step) * V + v] = logits[r][j];
        }
    }
}
