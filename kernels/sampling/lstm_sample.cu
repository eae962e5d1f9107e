/* lstm_sample.cu: `count` characters of every stream in one launch, the weights in registers.
 *   from a character to the next: one step of every layer (lstm_forward.cuh), logits = W h' + b, draw.cuh
 * inputs [streams]: the character before, in and out. h, c [L,2,streams,H]: slot 1, in and out. made [count,streams] out: ids, or -1 from where a
 * logit is not finite on. Stream s is number first_stream + s; `position` is that of the first of them.
 * A block has a stream, a group of its threads each matrix (wavefront.cuh); its first warp draws.
 * Reference: engines/host_sampler.py
 */
#include "sampling/draw.cuh"
#include "head/head.cuh"
#include "resident/wavefront.cuh"

constexpr int CHUNK = (H + 3) / 4 * 4;

struct __align__(16) Shared {
    real h[2][L][2 * STRIDE];  // by parity of the step
    real c[L][GROUP];
    real projected[2 * GROUP];  // of the layer at work
    HeadWeights<CHUNK> head_weights;
    real logits[32 * CHARACTERS];
    double p[32 * CHARACTERS];
    int id;
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES, "plan.py and lstm_sample.cu differ on shared memory");
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_sample(
    const real* parameters, int* inputs, real* h, real* c, int* made, int count, int streams, int is_exp, int top_k,
    double coldness, double top_p, unsigned long long seed, unsigned long long first_stream,
    unsigned long long position) {
    DYNAMIC_SHARED(Shared, shared);
    const Stage stage = my_stage(0);
    const int layer = stage.layer, s = blockIdx.x;
    const bool high = stage.lane & 16;
    const int unit = 16 * stage.warp + stage.lane % 16, gate = high ? H + unit : unit;  // and gate + 2 * H
    const bool keeps = is_unit(unit) && high && stage.recurrent, has_bias = is_unit(unit) && (layer == 0 || !stage.recurrent);

    Rows matrix;
    matrix.load(parameters + (stage.recurrent ? weight_hh_at(layer) : weight_ih_at(layer)), unit, high);
    const long long state_at = ((static_cast<long long>(layer) * 2 + 1) * streams + s) * H + unit;

    shared->head_weights.fetch<THREADS>(parameters + HEAD_WEIGHT_AT, H, V, 0);
    commit_copies();
    wait_copies<0>();
    real* vectors = &shared->h[0][0][0];
    for (int index = threadIdx.x; index < 2 * L * 2 * STRIDE; index += THREADS) vectors[index] = 0;
    __syncthreads();
    if (keeps) shared->h[0][layer][place(unit)] = h[state_at];
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
        for (int turn = 0; turn < L; ++turn) {
            if (turn && layer == turn && !stage.recurrent) {
                matrix.product(after[turn - 1], high, first, second);
                shared->projected[2 * stage.thread] = first + input1;
                shared->projected[2 * stage.thread + 1] = second + input2;
            }
            if (turn) __syncthreads();
            if (layer == turn && stage.recurrent) {
                if (turn) {
                    input1 = shared->projected[2 * stage.thread];
                    input2 = shared->projected[2 * stage.thread + 1];
                }
                const real gate1 = sigmoid(first + input1);
                const real gate2 = activate(second + input2, high ? real(0.5) : real(1));
                const real new_memory = __shfl_xor_sync(~0u, gate1 * gate2, 16);  // i*g, where it is wanted
                const real next = fma(gate1, shared->c[turn][stage.thread], new_memory);
                shared->c[turn][stage.thread] = next;  // of use in the high lanes, like h
                const real my_h = gate2 * tanh(next);
                if (keeps) after[turn][place(unit)] = my_h;
            }
            __syncthreads();
        }
#pragma unroll 1
        for (int v = threadIdx.x; v < V; v += THREADS) {
            real logit = parameters[HEAD_BIAS_AT + v];
#pragma unroll 2
            for (int unit4 = 0; unit4 < CHUNK; unit4 += 4)
                add_product(shared->head_weights.at(v, unit4),
                            *reinterpret_cast<const Four*>(&after[L - 1][place(unit4)]), logit);
            shared->logits[v] = logit;
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            const double uniform = draw_uniform(seed, first_stream + s, position + k);
            const int id =
                draw({is_exp, top_k, coldness, top_p}, uniform, shared->logits, shared->p, V, nullptr);
            if (threadIdx.x == 0) {
                made[static_cast<long long>(k) * streams + s] = id;
                shared->id = max(id, 0);
            }
        }
        __syncthreads();
    }
    if (keeps) {
        h[state_at] = shared->h[count % 2][layer][place(unit)];
        c[state_at] = shared->c[layer][stage.thread];
    }
    if (threadIdx.x == 0) inputs[s] = shared->id;
}
