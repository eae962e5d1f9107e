/* persistent_forward.cu: the forward recurrence of a window, all layers, in one launch over the whole chip.
 *   a = W_ih x + W_hh h + b     i,f,o = sigmoid(a_i, a_f, a_o)     g = tanh(a_g)     c', h': cell.cuh
 * parameters [PARAMETERS] in: the flat buffer, shape.cuh
 * inputs in: [T,B] for each window of the chunk
 * h, c [L,T+1,B,H]: slot 0 in, the others out
 * gates [L,T,B,4,H] out: activated; until then what a projection hands to its layer's recurrent stage
 * dropped [L,T,B,H] out: h' times the mask, with DROPOUT
 * flags in, out: persistent.cuh; all 0 before the launch
 * progress in: which window of the chunk this is; now.stopped grows by 2 for each block that has waited too long
 * seed, threshold, first_row, batch, scale: dropout.cuh; steps in: the number of the training step
 * Which block computes what: persistent.cuh. Within a part, each thread owns one hidden unit and every ROW_STRIDE-th
 * batch row, for everything but the products (tile.cuh). A pre-activation is the bias, plus the warps' partial sums in
 * their order, plus in a recurrent stage the projection's sum or the row of layer 0's table. No order depends on
 * timing, so runs repeat exactly.
 * Source: Gers, Schmidhuber, Cummins 2000. Reference: numpy_engine._forward_layer
 */
#include "common/cell.cuh"
#include "persistent/persistent.cuh"

#ifdef PRECISION
using BlockTile = TensorTile<H>;  // a warp has the gates of 4 units
#else
using BlockTile = Tile<H, 8>;
#endif
constexpr int THREADS = 32 * BlockTile::WARPS * (4 * UNITS / BlockTile::OUTPUTS), ROW_STRIDE = THREADS / UNITS;
static_assert(4 * UNITS % BlockTile::OUTPUTS == 0, "expected UNITS whose gates are a whole number of warps' outputs");

struct __align__(16) Shared {
    real vectors[ROOM * BlockTile::ROW_LENGTH];      // the part's rows, which the matrix is multiplied by
    Four partials[BlockTile::WARPS][ROOM][UNITS];    // i, f, g, o
    real fetched[5][ROWS][UNITS];                    // i, f, g, o of the projection or the table; c
    Four bias[UNITS];                                // i, f, g, o; 0 where another stage adds it
    const int* inputs;                               // of this training step
    const real* source;                              // [T,B,H]: what the stage reads at each t
    Dropout dropout;
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES,
              "expected SHARED_BYTES as cuchar/engines/cuda/persistent.py reckons them, found another struct Shared");
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_forward(
    const real* parameters, const int* inputs, real* h, real* c, real* gates, real* dropped, unsigned* flags,
    Progress* progress, int T, int B, unsigned long long seed, unsigned threshold, int first_row, int batch,
    real scale, const Step* steps) {
    DYNAMIC_SHARED(Shared, shared);
    const Assignment own = my_assignment();
    const int layer = (own.stage + 1) / 2, first_unit = own.block * UNITS;
    const int thread_row = threadIdx.x / UNITS, local_unit = threadIdx.x % UNITS, unit = first_unit + local_unit;
    const int BH = B * H;
    const Flags all_flags = {flags, reinterpret_cast<unsigned*>(&progress->now.stopped)};
    const bool has_table = layer == 0, has_bias = has_table || !own.recurrent;

    BlockTile matrix;
    const real* weights = parameters + (own.recurrent ? weight_hh_at(layer) : weight_ih_at(layer));
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
        if (own.recurrent) shared->source = h + 1ll * layer * (T + 1) * BH;
        else shared->source = DROPOUT ? dropped + below * T * BH : h + below * (T + 1) * BH + BH;
        shared->dropout = {seed, steps[index].number, threshold, first_row, batch, scale};
    }
    clear<THREADS>(&shared->vectors[0], ROOM * BlockTile::ROW_LENGTH);
    __syncthreads();

    // Where a row of `item` has this thread's unit: gate i in gates, and the state that enters the time step in h and
    // c.
    const auto gate_at = [&](const Item& item, int row) {
        return gates + 4ll * H * ((layer * T + item.time_step) * B + item.first + row) + unit;
    };
    const auto state_at = [&](const Item& item, int row) {
        return 1ll * H * ((layer * (T + 1) + item.time_step) * B + item.first + row) + unit;
    };
    const auto fetch_gates = [&](int row, const real* from) {
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) copy_async(&shared->fetched[gate][row][local_unit], from + gate * H);
    };
    const auto fetch = [&](const Item& item) {
        if (has_table)  // nobody has to be waited for
            for (int row = thread_row; row < item.count && unit < H; row += ROW_STRIDE) {
                const int id = shared->inputs[item.time_step * B + item.first + row];
                fetch_gates(row, parameters + weight_ih_at(0) + id * 4ll * H + unit);
            }
        if (!all_flags.wait(own, item)) return false;
        const real* rows = shared->source + 1ll * H * (item.time_step * B + item.first);
        fetch_rows<BlockTile, H, THREADS>(shared->vectors, rows, item.count);
        for (int row = thread_row; row < item.count && unit < H && own.recurrent; row += ROW_STRIDE) {
            if (!has_table) fetch_gates(row, gate_at(item, row));
            copy_async(&shared->fetched[4][row][local_unit], c + state_at(item, row));
        }
        return true;
    };
    run(own, all_flags, T, B, fetch, [&](const Item& item) {
        matrix.multiply<4 * UNITS>(shared->vectors, item.count, &shared->partials[0][0][0].x);
        __syncthreads();
        for (int row = thread_row; row < item.count && unit < H; row += ROW_STRIDE) {
            Four sum = shared->bias[local_unit];
#pragma unroll
            for (int warp = 0; warp < BlockTile::WARPS; ++warp)
                add_scaled(shared->partials[warp][row][local_unit], 1, sum);
            real* gate = gate_at(item, row);
            if (!own.recurrent) {
                gate[0] = sum.x;
                gate[H] = sum.y;
                gate[2 * H] = sum.z;
                gate[3 * H] = sum.w;
                continue;
            }
            const auto& in = shared->fetched;
            const real i = sigmoid(sum.x + in[0][row][local_unit]), f = sigmoid(sum.y + in[1][row][local_unit]);
            const real g = tanh(sum.z + in[2][row][local_unit]), o = sigmoid(sum.w + in[3][row][local_unit]);
            gate[0] = i;
            gate[H] = f;
            gate[2 * H] = g;
            gate[3 * H] = o;
            const CellState next = next_state({i, f, g, o}, in[4][row][local_unit]);
            const long long state = state_at(item, row) + BH;
            c[state] = next.c;
            h[state] = next.h;
            if (DROPOUT) {
                const int b = item.first + row;
                const real factor = called_dropout_factor(shared->dropout, layer, item.time_step, b, unit);
                dropped[1ll * (layer * T + item.time_step) * BH + b * H + unit] = next.h * factor;
            }
        }
    });
}
