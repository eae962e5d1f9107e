/* persistent_backward.cu: back through a window's recurrence, all layers, in one launch.
 *   dc = dh'*o*(1 - tanh(c')^2) + dc'                  (dc': from the step after; leaves as f*dc)
 *   da_i = dc*g*i*(1-i)   da_f = dc*c*f*(1-f)   da_g = dc*i*(1-g^2)   da_o = dh'*tanh(c')*o*(1-o)
 *   dh of the step before = W_hh^T da        dh' of the layer below = mask * W_ih^T da
 * parameters, c, progress: persistent_forward.cu. gates [L,T,B,4,H]: activated in, da out; dh [T,B,H] in: gradient of the
 * last layer's h', out: scratch.
 * Reference: numpy_engine._backward_layer
 */
#include "persistent/persistent.cuh"

#ifdef PRECISION
using Matrix = TensorTile<4 * H>;
#else
using Matrix = Tile<4 * H, 16>;
#endif
constexpr int THREADS = 32 * Matrix::WARPS * (UNITS / Matrix::OUTPUTS), ROW_STEP = THREADS / UNITS;
static_assert(UNITS % Matrix::OUTPUTS == 0, "whole warps");

struct __align__(16) Shared {
    real vectors[ROOM * Matrix::ROW];
    real partials[Matrix::WARPS][ROOM][UNITS];
    real fetched[7][ROWS][UNITS];                // i, f, g, o; c, c', dh'
    real dc[PARTS][ROWS][UNITS];
    Dropout dropout;
};
#ifdef SHARED_BYTES
static_assert(sizeof(Shared) == SHARED_BYTES, "persistent_plan.py and persistent_backward.cu differ on shared memory");
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_backward(
    const real* parameters, const real* c, real* gates, real* dh, unsigned* flags, Progress* progress, int T, int B,
    unsigned long long seed, unsigned threshold, real scale, const Step* steps) {
    DYNAMIC_SHARED(Shared, shared);
    const Corner corner = my_corner();
    const int layer = L - 1 - corner.stage / 2, first_unit = corner.block * UNITS;
    const int first_row = threadIdx.x / UNITS, mine = threadIdx.x % UNITS, unit = first_unit + mine;
    const int BH = B * H;
    const Flags all_flags = {flags, reinterpret_cast<unsigned*>(&progress->now.stopped)};

    Matrix matrix;
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
    clear<THREADS>(&shared->vectors[0], ROOM * Matrix::ROW);
    clear<THREADS>(&shared->dc[0][0][0], PARTS * ROWS * UNITS);
    __syncthreads();

    real* layer_gates = gates + 4ll * layer * T * BH;
    const auto element_at = [&](const Item& at, int row) {
        return 1ll * (T - 1 - at.step) * BH + (at.first + row) * H + unit;
    };
    const auto fetch = [&](const Item& at) {
        for (int row = first_row; row < at.count && unit < H && corner.recurrent; row += ROW_STEP) {  // what forward left: without a wait
            const long long element = element_at(at, row);
            const real *gate = layer_gates + 4 * (element - unit) + unit, *cell = c + 1ll * layer * (T + 1) * BH + element;
#pragma unroll
            for (int i = 0; i < 4; ++i) copy_async(&shared->fetched[i][row][mine], gate + i * H);
            copy_async(&shared->fetched[4][row][mine], cell);
            copy_async(&shared->fetched[5][row][mine], cell + BH);
        }
        if (!all_flags.wait(corner, at)) return false;
        const int t = T - 1 - at.step + corner.recurrent;  // da of the step after, or of this one
        const real* from = layer_gates + 4 * (1ll * t * BH + at.first * H);
        if (t < T) fetch_rows<Matrix, 4 * H, THREADS>(shared->vectors, from, at.count);
        for (int row = first_row; row < at.count && unit < H && corner.recurrent; row += ROW_STEP)
            copy_async(&shared->fetched[6][row][mine], dh + element_at(at, row));
        return true;
    };
    run(corner, all_flags, T, B, fetch, [&](const Item& at) {
        const bool has_product = !corner.recurrent || at.step;
        if (has_product) matrix.multiply<UNITS>(shared->vectors, at.count, shared->partials[0][0]);
        __syncthreads();
        for (int row = first_row; row < at.count && unit < H; row += ROW_STEP) {
            const long long element = element_at(at, row);
            real sum = 0;
            if (has_product)
#pragma unroll
                for (int warp = 0; warp < Matrix::WARPS; ++warp) sum += shared->partials[warp][row][mine];
            if (!corner.recurrent) {
                if (DROPOUT) sum *= factor(shared->dropout, layer - 1, element);
                dh[element] = sum;
                continue;
            }
            const auto& in = shared->fetched;
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
