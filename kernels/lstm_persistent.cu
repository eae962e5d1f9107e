/* lstm_persistent.cu: a window's recurrence, all layers, in a launch forward and one backward, the weights in the
 * registers of the whole chip. Who computes what: persistent.cuh.
 *   i,f,o = sigmoid(a_i, a_f, a_o)   g = tanh(a_g)     c' = f*c + i*g     h' = o*tanh(c')
 *   dc = dh'*o*(1 - tanh(c')^2) + dc'                  (dc': from the step after; leaves as f*dc)
 *   da_i = dc*g*i*(1-i)   da_f = dc*c*f*(1-f)   da_g = dc*i*(1-g^2)   da_o = dh'*tanh(c')*o*(1-o)
 *   dh of the step before = W_hh^T da        dh' of the layer below = mask * W_ih^T da
 * parameters [PARAMETERS]; inputs [T,B] of this step (a chunk of them a training step); h, c [L,T+1,B,H], slot 0 in;
 * gates [L,T,B,4,H]: forward leaves them activated, backward da; dropped [L,T,B,H]: h' times the mask, with DROPOUT;
 * dh [T,B,H] in: gradient of the last layer's h', out: scratch. progress->now.stopped grows by 2 for each block that
 * waited too long. Of a part, a thread has one unit of every so many rows. No sum's order depends on who is first: runs repeat.
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer, _backward_layer
 */
#include "persistent.cuh"

#ifdef PRECISION
using Forward = TensorTile<H>;  // a warp has the gates of 4 units
using Backward = TensorTile<4 * H>;
#else
using Forward = Tile<H, 8>;
using Backward = Tile<4 * H, 16>;
#endif
constexpr int FORWARD_THREADS = 32 * Forward::WARPS * (4 * UNITS / Forward::OUTPUTS);
constexpr int BACKWARD_THREADS = 32 * Backward::WARPS * (UNITS / Backward::OUTPUTS);
static_assert(UNITS % Backward::OUTPUTS == 0, "whole warps");
constexpr int FORWARD_ROWS = FORWARD_THREADS / UNITS, BACKWARD_ROWS = BACKWARD_THREADS / UNITS;  // from a thread's row to its next

struct __align__(16) SharedForward {
    real vectors[BUFFERS][ROOM * Forward::ROW];
    Four partials[Forward::WARPS][ROOM][UNITS];   // i, f, g, o
    real fetched[BUFFERS][5][ROWS][UNITS];       // i, f, g, o from elsewhere; c
    Four bias[UNITS];                            // i, f, g, o
    const int* inputs;                           // of this training step
    const real* source;                          // of the rows of a part: at time 0
    Dropout dropout;
};
struct __align__(16) SharedBackward {
    real vectors[BUFFERS][ROOM * Backward::ROW];
    real partials[Backward::WARPS][ROOM][UNITS];
    real fetched[BUFFERS][7][ROWS][UNITS];       // i, f, g, o; c, c', dh'
    real dc[PARTS][ROWS][UNITS];
    Dropout dropout;
};
#ifdef SHARED_FORWARD
static_assert(sizeof(SharedForward) == SHARED_FORWARD && sizeof(SharedBackward) == SHARED_BACKWARD,
              "persistent_plan.py and lstm_persistent.cu differ on shared memory");
#endif

/* dropout_factor as a call, since its registers are needed for weights otherwise. */
__device__ __noinline__ real factor(const Dropout& dropout, int layer, long long element) {
    return dropout_factor(dropout, layer, element);
}

extern "C" __global__ void __launch_bounds__(FORWARD_THREADS, 1) persistent_forward(
    const real* parameters, const int* inputs, real* h, real* c, real* gates, real* dropped, unsigned* flag_words,
    Progress* progress, int T, int B, unsigned long long seed, unsigned threshold, real scale, const Step* steps) {
    DYNAMIC_SHARED(SharedForward, shared);
    const Corner corner = my_corner();
    const int layer = (corner.stage + 1) / 2, first_unit = corner.block * UNITS;
    const int first_row = threadIdx.x / UNITS, mine = threadIdx.x % UNITS, unit = first_unit + mine;
    const int BH = B * H;
    const Flags flags = {flag_words, reinterpret_cast<unsigned*>(&progress->now.stopped), BLOCKS * FORWARD_THREADS / 32};
    const bool has_table = layer == 0, has_bias = has_table || !corner.recurrent;

    Forward matrix;
    const real* weights = parameters + (corner.recurrent ? weight_hh_at(layer) : weight_ih_at(layer));
#ifdef PRECISION
    matrix.load([&](int output, int k) {
        const int of = first_unit + output / 4;
        const real weight = weights[(static_cast<long long>(output % 4) * H + min(of, H - 1)) * H + k];
        return of < H ? weight : real(0);
    });
#else
    matrix.load_rows([&](int output, int k) {
        const int of = first_unit + output / 4;
        return of < H ? load_four<H>(weights + (static_cast<long long>(output % 4) * H + of) * H, k) : Four{};
    });
#endif
    for (int n = threadIdx.x; n < UNITS; n += FORWARD_THREADS) {
        const real* at = parameters + bias_at(layer) + first_unit + n;
        shared->bias[n] = has_bias && first_unit + n < H ? Four{at[0], at[H], at[2 * H], at[3 * H]} : Four{};
    }
    if (threadIdx.x == 0) {  // what all threads have in common, so that their registers are free for weights
        const int index = progress->now.index;
        const long long below = layer - 1;
        shared->inputs = inputs + static_cast<long long>(index) * T * B;
        if (corner.recurrent) shared->source = h + 1ll * layer * (T + 1) * BH;
        else shared->source = DROPOUT ? dropped + below * T * BH : h + below * (T + 1) * BH + BH;
        shared->dropout = {seed, steps[index].number, threshold, scale};
    }
    clear<FORWARD_THREADS>(&shared->vectors[0][0], BUFFERS * ROOM * Forward::ROW);
    __syncthreads();

    const auto gate_at = [&](const Item& at, int row) {
        return gates + 4ll * H * ((layer * T + at.step) * B + at.first + row) + unit;
    };
    const auto state_at = [&](const Item& at, int row) {
        return 1ll * H * ((layer * (T + 1) + at.step) * B + at.first + row) + unit;
    };
    const auto fetch = [&](const Item& at, int buffer) {
        constexpr int EACH = (ROWS + FORWARD_ROWS - 1) / FORWARD_ROWS;
        int ids[EACH] = {};  // on their way while the block waits
#pragma unroll
        for (int r = 0; r < EACH; ++r) {
            const int row = first_row + r * FORWARD_ROWS;
            if (has_table && row < at.count) ids[r] = shared->inputs[at.step * B + at.first + row];
        }
        if (!flags.wait(corner, at)) return false;
        fetch_rows<Forward, H, FORWARD_THREADS>(shared->vectors[buffer], shared->source + 1ll * H * (at.step * B + at.first), at.count);
        auto& to = shared->fetched[buffer];
#pragma unroll
        for (int r = 0; r < EACH; ++r) {
            const int row = first_row + r * FORWARD_ROWS;
            if (!corner.recurrent || row >= at.count || unit >= H) continue;
            const real* in = has_table ? parameters + weight_ih_at(0) + ids[r] * 4ll * H + unit : gate_at(at, row);
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) copy_async(&to[gate][row][mine], in + gate * H);
            copy_async(&to[4][row][mine], c + state_at(at, row));
        }
        return true;
    };
    run(corner, flags, T, B, fetch, [&](const Item& at, int buffer) {
        matrix.multiply<4 * UNITS>(shared->vectors[buffer], at.count, &shared->partials[0][0][0].x);
        __syncthreads();
        for (int row = first_row; row < at.count && unit < H; row += FORWARD_ROWS) {
            Four sum = shared->bias[mine];
#pragma unroll
            for (int warp = 0; warp < Forward::WARPS; ++warp) add_scaled(shared->partials[warp][row][mine], 1, sum);
            real* gate = gate_at(at, row);
            if (!corner.recurrent) {
                gate[0] = sum.x, gate[H] = sum.y, gate[2 * H] = sum.z, gate[3 * H] = sum.w;
                continue;
            }
            const auto& in = shared->fetched[buffer];
            const long long state = state_at(at, row);
            const real i = gate[0] = sigmoid(sum.x + in[0][row][mine]), g = gate[2 * H] = tanh(sum.z + in[2][row][mine]);
            const real f = gate[H] = sigmoid(sum.y + in[1][row][mine]);
            const real next = c[state + BH] = f * in[4][row][mine] + i * g;
            const real o = gate[3 * H] = sigmoid(sum.w + in[3][row][mine]), out = h[state + BH] = o * tanh(next);
            if (DROPOUT) {
                const long long element = 1ll * at.step * BH + (at.first + row) * H + unit;
                dropped[1ll * layer * T * BH + element] = out * factor(shared->dropout, layer, element);
            }
        }
    });
}

extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS, 1) persistent_backward(
    const real* parameters, const real* c, real* gates, real* dh, unsigned* flag_words, Progress* progress, int T, int B,
    unsigned long long seed, unsigned threshold, real scale, const Step* steps) {
    DYNAMIC_SHARED(SharedBackward, shared);
    const Corner corner = my_corner();
    const int layer = L - 1 - corner.stage / 2, first_unit = corner.block * UNITS;
    const int first_row = threadIdx.x / UNITS, mine = threadIdx.x % UNITS, unit = first_unit + mine;
    const int BH = B * H;
    const Flags flags = {flag_words, reinterpret_cast<unsigned*>(&progress->now.stopped), BLOCKS * BACKWARD_THREADS / 32};

    Backward matrix;
    const real* weights = parameters + (corner.recurrent ? weight_hh_at(layer) : weight_ih_at(layer));
#ifdef PRECISION
    matrix.load([&](int output, int j) {
        const int of = first_unit + output;
        const real weight = weights[static_cast<long long>(j) * H + min(of, H - 1)];
        return of < H ? weight : real(0);
    });
#else
    matrix.load_columns([&](int output, int j) {
        return j < 4 * H ? load_four<H>(weights + static_cast<long long>(j) * H, first_unit + output) : Four{};
    });
#endif
    if (threadIdx.x == 0) shared->dropout = {seed, steps[progress->now.index].number, threshold, scale};
    clear<BACKWARD_THREADS>(&shared->vectors[0][0], BUFFERS * ROOM * Backward::ROW);
    clear<BACKWARD_THREADS>(&shared->dc[0][0][0], PARTS * ROWS * UNITS);
    __syncthreads();

    real* layer_gates = gates + 4ll * layer * T * BH;
    const auto element_at = [&](const Item& at, int row) {
        return 1ll * (T - 1 - at.step) * BH + (at.first + row) * H + unit;
    };
    const auto fetch = [&](const Item& at, int buffer) {
        if (!flags.wait(corner, at)) return false;
        const int t = T - 1 - at.step + corner.recurrent;  // da of the step after, or of this one
        const real* from = layer_gates + 4 * (1ll * t * BH + at.first * H);
        if (t < T) fetch_rows<Backward, 4 * H, BACKWARD_THREADS>(shared->vectors[buffer], from, at.count);
        auto& to = shared->fetched[buffer];
        for (int row = first_row; row < at.count && unit < H && corner.recurrent; row += BACKWARD_ROWS) {
            const long long element = element_at(at, row);
            const real *gate = layer_gates + 4 * (element - unit) + unit, *cell = c + 1ll * layer * (T + 1) * BH + element;
#pragma unroll
            for (int i = 0; i < 4; ++i) copy_async(&to[i][row][mine], gate + i * H);
            copy_async(&to[4][row][mine], cell);
            copy_async(&to[5][row][mine], cell + BH);
            copy_async(&to[6][row][mine], dh + element);
        }
        return true;
    };
    run(corner, flags, T, B, fetch, [&](const Item& at, int buffer) {
        const bool has_product = !corner.recurrent || at.step;
        if (has_product) matrix.multiply<UNITS>(shared->vectors[buffer], at.count, shared->partials[0][0]);
        __syncthreads();
        for (int row = first_row; row < at.count && unit < H; row += BACKWARD_ROWS) {
            const long long element = element_at(at, row);
            real sum = 0;
            if (has_product)
#pragma unroll
                for (int warp = 0; warp < Backward::WARPS; ++warp) sum += shared->partials[warp][row][mine];
            if (!corner.recurrent) {
                if (DROPOUT) sum *= factor(shared->dropout, layer - 1, element);
                dh[element] = sum;
                continue;
            }
            const auto& in = shared->fetched[buffer];
            const real i = in[0][row][mine], f = in[1][row][mine], g = in[2][row][mine], o = in[3][row][mine];
            const real tanh_c = tanh(in[5][row][mine]), through_h = sum + in[6][row][mine];
            real& dc_after = shared->dc[at.part % PARTS][row][mine];
            const real dc = through_h * o * (1 - tanh_c * tanh_c) + dc_after;
            dc_after = dc * f;
            real* gate = layer_gates + 4 * (element - unit) + unit;
            gate[0] = dc * g * i * (1 - i);
            gate[H] = dc * in[4][row][mine] * f * (1 - f);
            gate[2 * H] = dc * i * (1 - g * g);
            gate[3 * H] = through_h * tanh_c * o * (1 - o);
        }
    });
}
