/* lstm_resident.cu: a whole window, all layers, in one launch; the recurrence's weights stay in registers.
 *
 *   lstm_forward   h, c and gates, from the state in slot T; without dropout
 *   lstm_step      of a training step: forward, the head, and backward through the recurrence, so that gates become da;
 *                  weight_gradients.cu follows. The first kernel of a training step: reads progress->next, writes ->now
 *
 * One block, or one cluster of CLUSTER blocks, for each batch row: no barrier is wider. Threads: wavefront.cuh.
 * parameters [PARAMETERS] in: the flat buffer, shape.cuh
 * inputs, targets in: [T,B]; lstm_step is given those of all windows of the chunk, [T,B] each, and takes its own
 * h, c [L,T+1,B,H]: slot T in (with carry), all slots out; gates, dropped, dh, dlogits, losses out, shapes: Sequence
 * carry: begin with the state that the window before has left in slot T, else with zeros
 * seed, threshold, first_row, batch, scale: dropout.cuh; steps, progress: step.cuh
 * Reference: numpy_engine._forward_layer, cross_entropy, _backward_layer
 */
#include "head/head.cuh"
#include "resident/lstm_backward.cuh"
#include "resident/lstm_forward.cuh"
#include "common/step.cuh"

constexpr int DEPTH = (H + 3) / 4 * 4;  // all of H at once, for the head
constexpr int WARP_ROWS = CLUSTER > 1 ? 2 : 3, TILE_ROWS = WARP_ROWS * THREADS / 32;

/* Of a tile of TILE_ROWS time steps: what the head reads, and what it passes from lane to lane. */
struct Head {
    HeadRows<TILE_ROWS, DEPTH> hidden;
    real dlogits[TILE_ROWS][32 * LANE_CHARACTERS];
};
struct __align__(16) Shared {
    Exchange exchange;
    HeadWeights<DEPTH> head_weights;
    union {  // the head uses it while the recurrence does not
        Head head;
        Fetched fetched;
    };
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES,
              "expected SHARED_BYTES as cuchar/engines/cuda/resident.py reckons them, found another struct Shared");
#endif

#if CLUSTER > 1
#define CLUSTER_DIMS __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_DIMS
#endif

/* The head for one batch row: of each time step logits, losses, dlogits, and dh[t] = mask * W^T dlogits[t].
 * A block takes every CLUSTER-th tile of TILE_ROWS time steps, a warp of it WARP_ROWS. For dh a lane has every 32nd
 * unit, and adds over the characters in their order.
 * targets [T,B] in
 */
__device__ __forceinline__ void row_head(const Sequence& sequence, const int* targets, Shared& shared) {
    const int T = sequence.T, B = sequence.B, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr int LANE_UNITS = (H + 31) / 32;
    const real* h = DROPOUT ? sequence.dropped + sequence.output_at(L - 1, 0)
                            : sequence.h + sequence.state_at(L - 1, 1);  // what the last layer hands on
    for (int t = block_rank() * TILE_ROWS; t < T; t += CLUSTER * TILE_ROWS) {
        __syncthreads();
        const long long row_stride = static_cast<long long>(B) * H;  // from one time step to the next
        shared.head.hidden.fetch<THREADS>(h + t * row_stride, row_stride, T - t, 0);
        commit_copies();
        wait_copies<0>();
        __syncthreads();
        real dlogits[WARP_ROWS][LANE_CHARACTERS] = {};
        add_logits(shared.head_weights, shared.head.hidden, dlogits);
        const int first_t = t + warp * WARP_ROWS;
        finish_rows(sequence.parameters + HEAD_BIAS_AT, targets, sequence.dlogits, sequence.losses,
                    static_cast<long long>(first_t) * B + sequence.b, B, min(WARP_ROWS, T - first_t), T * B, dlogits);
#pragma unroll
        for (int r = 0; r < WARP_ROWS; ++r)
#pragma unroll
            for (int j = 0; j < LANE_CHARACTERS; ++j)
                shared.head.dlogits[warp * WARP_ROWS + r][lane + 32 * j] = dlogits[r][j];
        __syncwarp();
        real dh[WARP_ROWS][LANE_UNITS] = {};
        for (int v = 0; v < V; v += 4) {
            Four d[WARP_ROWS];
#pragma unroll
            for (int r = 0; r < WARP_ROWS; ++r)
                d[r] = *reinterpret_cast<const Four*>(&shared.head.dlogits[warp * WARP_ROWS + r][v]);
#pragma unroll
            for (int j = 0; j < LANE_UNITS; ++j) {
                const int k = min(lane + 32 * j, H - 1);
                const auto& weights = shared.head_weights.rows;
                const Four w = {weights[v][k], weights[v + 1][k], weights[v + 2][k], weights[v + 3][k]};
#pragma unroll
                for (int r = 0; r < WARP_ROWS; ++r) add_product(w, d[r], dh[r][j]);
            }
        }
#pragma unroll
        for (int r = 0; r < WARP_ROWS; ++r)
#pragma unroll
            for (int j = 0; j < LANE_UNITS; ++j) {
                const int k = lane + 32 * j;
                if (first_t + r >= T || k >= H) continue;
                if (DROPOUT) dh[r][j] *= dropout_factor(sequence.dropout, L - 1, sequence.element_at(first_t + r) + k);
                sequence.dh[sequence.output_at(0, first_t + r) + k] = dh[r][j];
            }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_DIMS lstm_forward(
    const real* parameters, const int* inputs, real* h, real* c, real* gates, int T, int B) {
    DYNAMIC_SHARED(Shared, shared);
    const int b = blockIdx.x / CLUSTER;
    const Sequence sequence = {parameters, inputs, h, c, gates, nullptr, nullptr, nullptr, nullptr,
                               T, B, b, true, {}};
    prepare(shared->exchange);
    lstm_forward(sequence, shared->exchange, shared->fetched);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_DIMS lstm_step(
    const real* parameters, const int* inputs, const int* targets, real* h, real* c, real* gates, real* dropped,
    real* dh, real* dlogits, real* losses, int T, int B, int carry, unsigned long long seed, unsigned threshold,
    int first_row, int batch, real scale, const Step* steps, Progress* progress) {
    DYNAMIC_SHARED(Shared, shared);
    const int index = progress->next.index, b = blockIdx.x / CLUSTER;
    const long long skipped = static_cast<long long>(index) * T * B;
    const Sequence sequence = {parameters, inputs + skipped, h, c, gates, dropped, dh, dlogits,
                               losses, T, B, b, carry,
                               {seed, steps[index].number, threshold, first_row, batch, scale}};
    prepare(shared->exchange);
    shared->head_weights.fetch<THREADS>(parameters + HEAD_WEIGHT_AT, H, V, 0);
    commit_copies();  // forward waits for them
    lstm_forward(sequence, shared->exchange, shared->fetched);
    // This pointer is made now, and not before, since forward needs all registers: the index is read once more.
    row_head(sequence, targets + static_cast<long long>(progress->next.index) * T * B, *shared);
    sync_row();
    lstm_backward(sequence, shared->exchange, shared->fetched);
    if (blockIdx.x == 0 && threadIdx.x == 0) progress->now = progress->next;
}
