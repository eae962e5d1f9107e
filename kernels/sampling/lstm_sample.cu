/* lstm_sample.cu: draws `count` characters of every stream in one launch; the recurrence's weights stay in registers.
 *   From one character to the next: one time step of every layer (cell.cuh), logits = W h' + b, and a draw (draw.cuh).
 * parameters [PARAMETERS] in: the flat buffer, shape.cuh
 * inputs [streams] in: the character before the first one; out: the last one that was drawn, 0 where there is none
 * h, c [L,2,streams,H]: slot 1 in and out: the state
 * made [count,streams] out: ids, or -1 from where a logit is not finite on
 * is_exp, top_k, coldness, top_p, min_p: struct Law
 * seed, first_stream, position: stream s is number first_stream + s, and the first of the characters its `position`-th
 * A block has a stream, a team of its threads each matrix (wavefront.cuh, CLUSTER 1), but no wavefront: since the
 * character that is drawn is the next input, layers take turns. For the logits a thread has every THREADS-th character,
 * and adds over H in order; the block's first warp draws.
 * Reference: cuchar/engines/host.py, HostSampler
 */
#include "sampling/draw.cuh"
#include "head/head.cuh"
#include "resident/wavefront.cuh"

constexpr int DEPTH = (H + 3) / 4 * 4;  // all of H at once, for the head

struct __align__(16) Shared {
    real h[2][L][2 * STRIDE];  // in turns for characters of even and of odd number
    real c[L][TEAM];
    real projected[2 * TEAM];  // what the projection of the layer whose turn it is hands over
    HeadWeights<DEPTH> head_weights;
    real logits[32 * LANE_CHARACTERS];
    double p[32 * LANE_CHARACTERS];
    int id;  // the last character
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES,
              "expected SHARED_BYTES as cuchar/engines/cuda reckons them, found another struct Shared");
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_sample(
    const real* parameters, int* inputs, real* h, real* c, int* made, int count, int streams, int is_exp, int top_k,
    double coldness, double top_p, double min_p, unsigned long long seed, unsigned long long first_stream,
    unsigned long long position) {
    DYNAMIC_SHARED(Shared, shared);
    const Stage stage = my_stage(0);
    const int layer = stage.layer, s = blockIdx.x;
    const bool high = stage.lane & 16;
    const int unit = 16 * stage.warp + stage.lane % 16;
    const int gate = high ? H + unit : unit;  // this lane's first gate in [4H]; its second is 2 * H further
    const bool keeps = is_unit(unit) && high && stage.recurrent;  // this lane keeps the unit's h and c
    const bool has_bias = is_unit(unit) && (layer == 0 || !stage.recurrent);

    Rows matrix;
    matrix.load(parameters + (stage.recurrent ? weight_hh_at(layer) : weight_ih_at(layer)), unit, high);
    const long long state_at = ((static_cast<long long>(layer) * 2 + 1) * streams + s) * H + unit;

    shared->head_weights.fetch<THREADS>(parameters + HEAD_WEIGHT_AT, H, V, 0);
    commit_copies();
    wait_copies<0>();
    real* vectors = &shared->h[0][0][0];
    for (int index = threadIdx.x; index < 2 * L * 2 * STRIDE; index += THREADS) vectors[index] = 0;
    __syncthreads();
    if (keeps) shared->h[0][layer][vector_index(unit)] = h[state_at];
    if (stage.recurrent) shared->c[layer][stage.thread] = keeps ? c[state_at] : real(0);
    if (threadIdx.x == 0) shared->id = inputs[s];
    __syncthreads();

#pragma unroll 1
    for (int k = 0; k < count; ++k) {
        const auto& before = shared->h[k % 2];
        auto& after = shared->h[1 - k % 2];
        real first = 0, second = 0, input1 = 0, input2 = 0;
        if (has_bias) {
            input1 = parameters[bias_at(layer) + gate];
            input2 = parameters[bias_at(layer) + gate + 2 * H];
        }
        if (stage.recurrent) {
            if (layer == 0 && is_unit(unit)) {
                const real* row = parameters + weight_ih_at(0) + static_cast<long long>(shared->id) * 4 * H + gate;
                input1 += row[0];
                input2 += row[2 * H];
            }
            matrix.product(before[layer], high, first, second);
        }
#pragma unroll 1
        for (int at_work = 0; at_work < L; ++at_work) {
            if (at_work && layer == at_work && !stage.recurrent) {
                matrix.product(after[at_work - 1], high, first, second);
                shared->projected[2 * stage.thread] = first + input1;
                shared->projected[2 * stage.thread + 1] = second + input2;
            }
            if (at_work) __syncthreads();
            if (layer == at_work && stage.recurrent) {
                if (at_work) {
                    input1 = shared->projected[2 * stage.thread];
                    input2 = shared->projected[2 * stage.thread + 1];
                }
                const real gate1 = sigmoid(first + input1);
                const real gate2 = activate(second + input2, high ? real(0.5) : real(1));
                const real new_memory = __shfl_xor_sync(~0u, gate1 * gate2, 16);  // i*g, which the high lane wants
                const real next = fma(gate1, shared->c[at_work][stage.thread], new_memory);
                shared->c[at_work][stage.thread] = next;  // all lanes compute c and h, of use in the high ones only
                const real my_h = gate2 * tanh(next);
                if (keeps) after[at_work][vector_index(unit)] = my_h;
            }
            __syncthreads();
        }
#pragma unroll 1
        for (int v = threadIdx.x; v < V; v += THREADS) {
            real logit = parameters[HEAD_BIAS_AT + v];
#pragma unroll 2
            for (int unit4 = 0; unit4 < DEPTH; unit4 += 4)
                add_product(shared->head_weights.at(v, unit4),
                            *reinterpret_cast<const Four*>(&after[L - 1][vector_index(unit4)]), logit);
            shared->logits[v] = logit;
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            const double uniform = draw_uniform(seed, first_stream + s, position + k);
            const Law law{is_exp, top_k, coldness, top_p, min_p};
            const int id = draw(law, uniform, shared->logits, shared->p, V, nullptr);
            if (threadIdx.x == 0) {
                made[static_cast<long long>(k) * streams + s] = id;
                shared->id = max(id, 0);
            }
        }
        __syncthreads();
    }
    if (keeps) {
        h[state_at] = shared->h[count % 2][layer][vector_index(unit)];
        c[state_at] = shared->c[layer][stage.thread];
    }
    if (threadIdx.x == 0) inputs[s] = shared->id;
}
