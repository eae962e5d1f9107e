/* head.cuh: logits, softmax, cross-entropy and dlogits of some rows n in one pass; the logits never leave the chip.
 *   logits[n] = W h'[n] + b    loss[n] = -log softmax(logits[n])[target_n]
 *   dlogits[n,v] = (softmax(logits[n])[v] - (v = target_n)) / N    Formulas: common/softmax.cuh
 * Thread assignment: a warp has WARP_ROWS rows, a lane of it every 32nd character. W [V,H] and h' come through shared
 * memory, DEPTH of the H at a time. A logit is one lane's sum in the order of k, from 0 to H - 1, and the bias after
 * it; sums over the vocabulary are a lane's own, then warp_sum's.
 * Source: softmax minus one-hot; Bishop 2006, section 4.3.4. Reference: numpy_engine.cross_entropy
 */
#pragma once

#include "common/four.cuh"
#include "head/row_softmax.cuh"

constexpr int LANE_CHARACTERS = (V + 31) / 32;

/* TILE_ROWS rows of DEPTH numbers in shared memory, padded so that rows of different lanes start in different banks. */
template <int TILE_ROWS, int DEPTH>
struct __align__(16) HeadRows {
    static constexpr int STRIDE = DEPTH + (DEPTH / 4 % 2 ? 0 : 4);
    real rows[TILE_ROWS][STRIDE];

    /* Copies columns [begin, begin + DEPTH) of the first `count` rows of a matrix with H columns, whose rows lie
     * `row_stride` numbers apart; zeros for rows and columns that it does not have. All threads of the block call it.
     * The numbers are there after a commit, wait_copies and a barrier.
     */
    template <int THREADS_OF_BLOCK>
    __device__ __forceinline__ void fetch(const real* from, long long row_stride, int count, int begin) {
        constexpr int FOURS = TILE_ROWS * (DEPTH / 4), TRIPS = (FOURS + THREADS_OF_BLOCK - 1) / THREADS_OF_BLOCK;
        constexpr int UNROLLED = TRIPS < 8 ? TRIPS : 8;
#pragma unroll UNROLLED
        for (int trip = 0; trip < TRIPS; ++trip) {
            const int index = trip * THREADS_OF_BLOCK + threadIdx.x;
            const int row = index / (DEPTH / 4), k = index % (DEPTH / 4) * 4;
            if (FOURS % THREADS_OF_BLOCK && index >= FOURS) break;
            Four* to = reinterpret_cast<Four*>(&rows[row][k]);
            if (row >= count || begin + k >= H) *to = {};
            else if (H % 4 == 0) copy_async(to, reinterpret_cast<const Four*>(from + row * row_stride + begin + k));
            else *to = load_four<H>(from + row * row_stride, begin + k);
        }
    }

    __device__ __forceinline__ Four at(int row, int k) const { return *reinterpret_cast<const Four*>(&rows[row][k]); }
};

/* Rows of W, one for each character. */
template <int DEPTH>
using HeadWeights = HeadRows<32 * LANE_CHARACTERS, DEPTH>;

/* logits[r][j] += this warp's row r times W's row lane + 32 * j, over the DEPTH columns in shared memory. */
template <int WARP_ROWS, int TILE_ROWS, int DEPTH>
__device__ __forceinline__ void add_logits(
    const HeadWeights<DEPTH>& weights, const HeadRows<TILE_ROWS, DEPTH>& hidden,
    real (&logits)[WARP_ROWS][LANE_CHARACTERS]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int k = 0; k < DEPTH; k += 4) {
        Four h[WARP_ROWS];
#pragma unroll
        for (int r = 0; r < WARP_ROWS; ++r) h[r] = hidden.at(warp * WARP_ROWS + r, k);
#pragma unroll
        for (int j = 0; j < LANE_CHARACTERS; ++j) {
            const Four w = weights.at(lane + 32 * j, k);
#pragma unroll
            for (int r = 0; r < WARP_ROWS; ++r) add_product(w, h[r], logits[r][j]);
        }
    }
}

/* From this warp's logits to losses and dlogits.
 * bias [V] in; targets [N] in, or null
 * dlogits [N,V] out: the logits where targets is null; losses [N] out, with targets
 * first, n_stride, count: row r of the warp is n = first + r * n_stride, for r < count
 * logits in: without bias; out: what is stored in dlogits, 0 for r >= count
 */
template <int WARP_ROWS>
__device__ __forceinline__ void finish_rows(
    const real* bias, const int* targets, real* dlogits, real* losses, long long first, int n_stride, int count, int N,
    real (&logits)[WARP_ROWS][LANE_CHARACTERS]) {
    const int lane = threadIdx.x % 32;
    real biases[LANE_CHARACTERS];
#pragma unroll
    for (int j = 0; j < LANE_CHARACTERS; ++j) biases[j] = lane + 32 * j < V ? bias[lane + 32 * j] : real(0);
    const auto number_of = [&](int r) { return first + static_cast<long long>(r) * n_stride; };
    int target[WARP_ROWS];
#pragma unroll
    for (int r = 0; r < WARP_ROWS; ++r) target[r] = targets && r < count ? targets[number_of(r)] : 0;
#pragma unroll
    for (int r = 0; r < WARP_ROWS; ++r) {
        real largest = LOWEST, chosen = 0;
#pragma unroll
        for (int j = 0; j < LANE_CHARACTERS; ++j) {
            real& logit = logits[r][j];
            logit = lane + 32 * j < V ? logit + biases[j] : LOWEST;
            largest = max(largest, logit);
            if (lane + 32 * j == target[r]) chosen = logit;
        }
        if (targets) {
            largest = warp_max(largest);
            chosen = __shfl_sync(~0u, chosen, target[r] % 32);
            Sum<real> others = {};
#pragma unroll
            for (int j = 0; j < LANE_CHARACTERS; ++j) {
                logits[r][j] = exp_of_difference(logits[r][j], largest);
                others += lane + 32 * j == target[r] ? real(0) : logits[r][j];
            }
            const Softmax softmax(warp_sum(others), exp_of_difference(chosen, largest), N);
            if (lane == 0 && r < count) losses[number_of(r)] = softmax.loss(largest - chosen);
#pragma unroll
            for (int j = 0; j < LANE_CHARACTERS; ++j)
                logits[r][j] = lane + 32 * j == target[r] ? softmax.target_gradient : softmax.of(logits[r][j]);
        }
#pragma unroll
        for (int j = 0; j < LANE_CHARACTERS; ++j) {
            const int v = lane + 32 * j;
            if (r >= count) logits[r][j] = 0;
            else if (v < V) dlogits[number_of(r) * V + v] = logits[r][j];
        }
    }
}
