/* lstm_resident.cu: a whole window, all layers, in one launch, the weights in registers.
 *
 *   lstm_forward   h, c and gates, from the state in slot T; without dropout
 *   lstm_step      forward, head and backward of training: dlogits, losses, and gates become da.
 *                  The first kernel of a step: reads progress->next
 *
 * A block (CLUSTER blocks) has one batch row: no barrier is wider. Shapes: wavefront.cuh, Sequence.
 */
#include "head/head.cuh"
#include "resident/lstm_backward.cuh"
#include "resident/lstm_forward.cuh"
#include "common/step.cuh"

constexpr int CHUNK = (H + 3) / 4 * 4, EACH = CLUSTER > 1 ? 2 : 3, ROWS = EACH * THREADS / 32;

struct Head {
    HeadRows<ROWS, CHUNK> hidden;
    real dlogits[ROWS][32 * CHARACTERS];
};
struct __align__(16) Shared {
    Exchange exchange;
    HeadWeights<CHUNK> head_weights;
    union {  // the head's, and the recurrence's
        Head head;
        Fetched fetched;
    };
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES, "plan.py and lstm_resident.cu differ on shared memory");
#endif

#if CLUSTER > 1
#define CLUSTER_DIMS __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_DIMS
#endif

/* Every CLUSTER-th tile of the row's steps: logits, dlogits, dh[n] = mask * W^T dlogits[n]. */
__device__ __forceinline__ void row_head(const Sequence& sequence, Shared& shared) {
    const int T = sequence.T, B = sequence.B, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr int COLUMNS = (H + 31) / 32;  // of a lane
    const real* h = DROPOUT ? sequence.dropped + sequence.output_at(L - 1, 0) : sequence.h + sequence.state_at(L - 1, 1);
    for (int t = block_rank() * ROWS; t < T; t += CLUSTER * ROWS) {
        __syncthreads();
        const long long step_size = static_cast<long long>(B) * H;
        shared.head.hidden.fetch<THREADS>(h + t * step_size, step_size, T - t, 0);
        commit_copies();
        wait_copies<0>();
        __syncthreads();
        real dlogits[EACH][CHARACTERS] = {};
        add_logits(shared.head_weights, shared.head.hidden, dlogits);
        const int mine = t + warp * EACH;
        finish_rows(sequence.parameters + HEAD_BIAS_AT, sequence.targets, sequence.dlogits, sequence.losses,
                    static_cast<long long>(mine) * B + sequence.b, B, min(EACH, T - mine), T * B, dlogits);
#pragma unroll
        for (int r = 0; r < EACH; ++r)
#pragma unroll
            for (int j = 0; j < CHARACTERS; ++j) shared.head.dlogits[warp * EACH + r][lane + 32 * j] = dlogits[r][j];
        __syncwarp();
        real dh[EACH][COLUMNS] = {};
        for (int v = 0; v < V; v += 4) {
            Four d[EACH];
#pragma unroll
            for (int r = 0; r < EACH; ++r)
                d[r] = *reinterpret_cast<const Four*>(&shared.head.dlogits[warp * EACH + r][v]);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const int k = min(lane + 32 * j, H - 1);
                const auto& weights = shared.head_weights.rows;
                const Four w = {weights[v][k], weights[v + 1][k], weights[v + 2][k], weights[v + 3][k]};
#pragma unroll
                for (int r = 0; r < EACH; ++r) add_product(w, d[r], dh[r][j]);
            }
        }
#pragma unroll
        for (int r = 0; r < EACH; ++r)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const int k = lane + 32 * j;
                if (mine + r >= T || k >= H) continue;
                const long long element = sequence.output_at(0, mine + r) + k;
                if (DROPOUT) dh[r][j] *= dropout_factor(sequence.dropout, L - 1, element);
                sequence.dh[element] = dh[r][j];
            }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_DIMS lstm_forward(
    const real* parameters, const int* inputs, real* h, real* c, real* gates, int T, int B) {
    DYNAMIC_SHARED(Shared, shared);
    const int b = blockIdx.x / CLUSTER;
    const Sequence sequence = {parameters, inputs, nullptr, h, c, gates, nullptr, nullptr, nullptr, nullptr,
                               T, B, b, true, {}};
    prepare(shared->exchange);
    lstm_forward(sequence, shared->exchange, shared->fetched);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_DIMS lstm_step(
    const real* parameters, const int* inputs, const int* targets, real* h, real* c, real* gates, real* dropped,
    real* dh, real* dlogits, real* losses, int T, int B, int carry, unsigned long long seed, unsigned threshold,
    real scale, const Step* steps, Progress* progress) {
    DYNAMIC_SHARED(Shared, shared);
    const int index = progress->next.index, b = blockIdx.x / CLUSTER;
    const long long skipped = static_cast<long long>(index) * T * B;
    const Sequence sequence = {parameters, inputs + skipped, targets + skipped, h, c, gates, dropped, dh, dlogits,
                               losses, T, B, b, carry, {seed, steps[index].number, threshold, scale}};
    prepare(shared->exchange);
    shared->head_weights.fetch<THREADS>(parameters + HEAD_WEIGHT_AT, H, V, 0);
    commit_copies();  // forward waits for them
    lstm_forward(sequence, shared->exchange, shared->fetched);
    row_head(sequence, *shared);
    sync_row();
    lstm_backward(sequence, shared->exchange, shared->fetched);
    if (blockIdx.x == 0 && threadIdx.x == 0) progress->now = progress->next;
}
