/* persistent_forward.cu: a window's recurrence, all layers, in one launch, the weights in the registers of the whole chip.
 * Who computes what: persistent.cuh.
 *   i,f,o = sigmoid(a_i, a_f, a_o)   g = tanh(a_g)     c' = f*c + i*g     h' = o*tanh(c')
 * parameters [PARAMETERS]; inputs [T,B] of this step (a chunk of them a training step); h, c [L,T+1,B,H], slot 0 in;
 * gates [L,T,B,4,H]: activated, out; dropped [L,T,B,H]: h' times the mask, with DROPOUT. progress->now.stopped grows by 2
 * for each block that waited too long. A thread has one unit and, of a part's rows, every ROW_STEP-th. No sum's order
 * depends on who is first: runs repeat.
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer
 */
#include "persistent/persistent.cuh"

#ifdef PRECISION
using Matrix = TensorTile<H>;  // a warp has the gates of 4 units
#else
using Matrix = Tile<H, 8>;
#endif
constexpr int THREADS = 32 * Matrix::WARPS * (4 * UNITS / Matrix::OUTPUTS), ROW_STEP = THREADS / UNITS;
static_assert(4 * UNITS % Matrix::OUTPUTS == 0, "whole warps");

struct __align__(16) Shared {
    real vectors[ROOM * Matrix::ROW];
    Four partials[Matrix::WARPS][ROOM][UNITS];   // i, f, g, o
    real fetched[5][ROWS][UNITS];                // i, f, g, o from elsewhere; c
    Four bias[UNITS];                            // i, f, g, o
    const int* inputs;                           // of this training step
    const real* source;                          // of the rows of a part: at time 0
    Dropout dropout;
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES, "persistent_plan.py and persistent_forward.cu differ on shared memory");
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_forward(
    const real* parameters, const int* inputs, real* h, real* c, real* gates, real* dropped, unsigned* flags,
    Progress* progress, int T, int B, unsigned long long seed, unsigned threshold, real scale, const Step* steps) {
    DYNAMIC_SHARED(Shared, shared);
    const Corner corner = my_corner();
    const int layer = (corner.stage + 1) / 2, first_unit = corner.block * UNITS;
    const int first_row = threadIdx.x / UNITS, mine = threadIdx.x % UNITS, unit = first_unit + mine;
    const int BH = B * H;
    const Flags all_flags = {flags, reinterpret_cast<unsigned*>(&progress->now.stopped)};
    const bool has_table = layer == 0, has_bias = has_table || !corner.recurrent;

    Matrix matrix;
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
    for (int n = threadIdx.x; n < UNITS; n += THREADS) {
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
    clear<THREADS>(&shared->vectors[0], ROOM * Matrix::ROW);
    __syncthreads();

    const auto gate_at = [&](const Item& at, int row) {
        return gates + 4ll * H * ((layer * T + at.step) * B + at.first + row) + unit;
    };
    const auto fetch_gates = [&](int row, const real* from) {
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) copy_async(&shared->fetched[gate][row][mine], from + gate * H);
    };
    const auto state_at = [&](const Item& at, int row) {
        return 1ll * H * ((layer * (T + 1) + at.step) * B + at.first + row) + unit;
    };
    const auto fetch = [&](const Item& at) {
        if (has_table)  // nobody has to be waited for
            for (int row = first_row; row < at.count && unit < H; row += ROW_STEP)
                fetch_gates(row, parameters + weight_ih_at(0) + shared->inputs[at.step * B + at.first + row] * 4ll * H + unit);
        if (!all_flags.wait(corner, at)) return false;
        fetch_rows<Matrix, H, THREADS>(shared->vectors, shared->source + 1ll * H * (at.step * B + at.first), at.count);
        for (int row = first_row; row < at.count && unit < H && corner.recurrent; row += ROW_STEP) {
            if (!has_table) fetch_gates(row, gate_at(at, row));
            copy_async(&shared->fetched[4][row][mine], c + state_at(at, row));
        }
        return true;
    };
    run(corner, all_flags, T, B, fetch, [&](const Item& at) {
        matrix.multiply<4 * UNITS>(shared->vectors, at.count, &shared->partials[0][0][0].x);
        __syncthreads();
        for (int row = first_row; row < at.count && unit < H; row += ROW_STEP) {
            Four sum = shared->bias[mine];
#pragma unroll
            for (int warp = 0; warp < Matrix::WARPS; ++warp) add_scaled(shared->partials[warp][row][mine], 1, sum);
            real* gate = gate_at(at, row);
            if (!corner.recurrent) {
                gate[0] = sum.x, gate[H] = sum.y, gate[2 * H] = sum.z, gate[3 * H] = sum.w;
                continue;
            }
            const auto& in = shared->fetched;
            const real i = sigmoid(sum.x + in[0][row][mine]), f = sigmoid(sum.y + in[1][row][mine]);
            const real g = tanh(sum.z + in[2][row][mine]), o = sigmoid(sum.w + in[3][row][mine]);
            gate[0] = i, gate[H] = f, gate[2 * H] = g, gate[3 * H] = o;
            const real next = f * in[4][row][mine] + i * g, out = o * tanh(next);
            const long long state = state_at(at, row) + BH;
            c[state] = next;
            h[state] = out;
            if (DROPOUT) {
                const long long element = 1ll * at.step * BH + (at.first + row) * H + unit;
                dropped[1ll * layer * T * BH + element] = out * factor(shared->dropout, layer, element);
            }
        }
    });
}
