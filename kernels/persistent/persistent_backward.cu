/* persistent_backward.cu: back through a window's recurrence, all layers, in one launch over the whole chip.
 *   da and dc from dh' and dc': cell.cuh
 *   dh' = W_hh^T da of the t after + what comes from above: dh as it is given for the last layer,
 *         mask * W_ih^T da of the layer above for the others
 * parameters [PARAMETERS] in: the flat buffer, shape.cuh
 * c [L,T+1,B,H] in
 * gates [L,T,B,4,H] in: activated; out: da
 * dh [T,B,H] in: gradient of the last layer's h'; afterwards what each projection hands to the layer below it
 * flags in, out: persistent.cuh; all 0 before the launch
 * progress in: which window of the chunk this is; now.stopped grows by 2 for each block that has waited too long
 * seed, threshold, first_row, batch, scale: dropout.cuh; steps in: the number of the training step
 * Which block computes what: persistent.cuh. Within a part, each thread owns one hidden unit and every ROW_STRIDE-th
 * batch row, for everything but the products (tile.cuh). A product is the warps' partial sums, added in their order. No
 * order depends on timing, so runs repeat exactly.
 * Reference: numpy_engine._backward_layer
 */
#include "common/cell.cuh"
#include "persistent/persistent.cuh"

#ifdef PRECISION
using BlockTile = TensorTile<4 * H>;
#else
using BlockTile = Tile<4 * H, 16>;
#endif
constexpr int THREADS = 32 * BlockTile::WARPS * (UNITS / BlockTile::OUTPUTS), ROW_STRIDE = THREADS / UNITS;
static_assert(UNITS % BlockTile::OUTPUTS == 0, "expected UNITS that are a whole number of warps' outputs");

struct __align__(16) Shared {
    real vectors[ROOM * BlockTile::ROW_LENGTH];      // the part's rows of da, which the matrix is multiplied by
    real partials[BlockTile::WARPS][ROOM][UNITS];
    real fetched[7][ROWS][UNITS];                    // i, f, g, o; c, c', dh'
    real dc[PARTS][ROWS][UNITS];                     // dc', from one item of a part to its next
    Dropout dropout;
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES,
              "expected SHARED_BYTES as cuchar/engines/cuda/persistent.py reckons them, found another struct Shared");
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_backward(
    const real* parameters, const real* c, real* gates, real* dh, unsigned* flags, Progress* progress, int T, int B,
    unsigned long long seed, unsigned threshold, int first_row, int batch, real scale, const Step* steps) {
    DYNAMIC_SHARED(Shared, shared);
    const Assignment own = my_assignment();
    const int layer = L - 1 - own.stage / 2, first_unit = own.block * UNITS;
    const int thread_row = threadIdx.x / UNITS, local_unit = threadIdx.x % UNITS, unit = first_unit + local_unit;
    const int BH = B * H;
    const Flags all_flags = {flags, reinterpret_cast<unsigned*>(&progress->now.stopped)};

    BlockTile matrix;
    const real* weights = parameters + (own.recurrent ? weight_hh_at(layer) : weight_ih_at(layer));
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
    if (threadIdx.x == 0)
        shared->dropout = {seed, steps[progress->now.index].number, threshold, first_row, batch, scale};
    clear<THREADS>(&shared->vectors[0], ROOM * BlockTile::ROW_LENGTH);
    clear<THREADS>(&shared->dc[0][0][0], PARTS * ROWS * UNITS);
    __syncthreads();

    real* layer_gates = gates + 4ll * layer * T * BH;
    const auto element_at = [&](const Item& item, int row) {  // the index in [T,B,H] of this thread's unit of a row
        return 1ll * (T - 1 - item.time_step) * BH + (item.first + row) * H + unit;
    };
    const auto fetch = [&](const Item& item) {
        // These numbers forward has left, in an earlier launch, so that no block has to wait for them.
        for (int row = thread_row; row < item.count && unit < H && own.recurrent; row += ROW_STRIDE) {
            const long long element = element_at(item, row);
            const real* gate = layer_gates + 4 * (element - unit) + unit;
            const real* cell = c + 1ll * layer * (T + 1) * BH + element;
#pragma unroll
            for (int i = 0; i < 4; ++i) copy_async(&shared->fetched[i][row][local_unit], gate + i * H);
            copy_async(&shared->fetched[4][row][local_unit], cell);
            copy_async(&shared->fetched[5][row][local_unit], cell + BH);
        }
        if (!all_flags.wait(own, item)) return false;
        const int t = T - 1 - item.time_step + own.recurrent;  // da of the t after, or of this one
        const real* from = layer_gates + 4 * (1ll * t * BH + item.first * H);
        if (t < T) fetch_rows<BlockTile, 4 * H, THREADS>(shared->vectors, from, item.count);
        for (int row = thread_row; row < item.count && unit < H && own.recurrent; row += ROW_STRIDE)
            copy_async(&shared->fetched[6][row][local_unit], dh + element_at(item, row));
        return true;
    };
    run(own, all_flags, T, B, fetch, [&](const Item& item) {
        const bool has_product = !own.recurrent || item.time_step;
        if (has_product) matrix.multiply<UNITS>(shared->vectors, item.count, shared->partials[0][0]);
        __syncthreads();
        for (int row = thread_row; row < item.count && unit < H; row += ROW_STRIDE) {
            const long long element = element_at(item, row);
            real sum = 0;
            if (has_product)
#pragma unroll
                for (int warp = 0; warp < BlockTile::WARPS; ++warp) sum += shared->partials[warp][row][local_unit];
            if (!own.recurrent) {
                if (DROPOUT)
                    sum *= called_dropout_factor(
                        shared->dropout, layer - 1, T - 1 - item.time_step, item.first + row, unit);
                dh[element] = sum;
                continue;
            }
            const auto& in = shared->fetched;
            const Gates activated = {in[0][row][local_unit], in[1][row][local_unit], in[2][row][local_unit],
                                     in[3][row][local_unit]};
            const real tanh_c = tanh(in[5][row][local_unit]), through_h = sum + in[6][row][local_unit];
            real& dc_after = shared->dc[item.part % PARTS][row][local_unit];
            const real dc = cell_gradient(activated, tanh_c, through_h, dc_after);
            dc_after = dc * activated.f;
            real* da = layer_gates + 4 * (element - unit) + unit;
            write_gate_gradients(activated, in[4][row][local_unit], tanh_c, through_h, dc, da, H);
        }
    });
}
