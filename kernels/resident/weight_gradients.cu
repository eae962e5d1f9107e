/* weight_gradients.cu: every gradient of the resident regime, split over N = T*B, in one launch.
 *   d W [M,H] = sum over n of left[n,M] times right[n,H]     d bias [M] = sum over n of left[n,M]
 *   for a layer: left = da, right = h before the step (W_hh) or the layer's input (W_ih)
 *   for the head: left = dlogits, right = what the last layer hands on
 *   d W_ih of layer 0, [V,4H]: rows of da added by character
 * partials [splits,PARAMETERS]: a split has N/splits of the n, the first ones one more; gradient_norm adds the splits in order.
 * A block: one split's tile of TILE x TILE, each half of its threads over half of the n, a thread 8 x 4 of the tile,
 * fetched DEPTH of n ahead; or eight characters of a split.
 * Reference: numpy_engine._weight_gradient, sum_columns_by_id
 */
#include "common/four.cuh"
#include "common/step.cuh"
#include "training/sums.cuh"

constexpr int TILE = 64, DEPTH = 64 / sizeof(real), HALF = 128, GEMM_THREADS = 2 * HALF;
constexpr int FOURS = TILE / 4, ROWS_AT_ONCE = HALF / FOURS, EACH = DEPTH / ROWS_AT_ONCE;  // to fetch
constexpr int BUFFER = DEPTH * FOURS;

struct Product {
    const real *left, *right;        // [N,M], [N,H]
    long long weight_at, bias_at;    // bias_at -1: another product of the same left has it
};

__host__ __device__ constexpr int tiles_of(int M) { return (M + TILE - 1) / TILE * ((H + TILE - 1) / TILE); }

template <int M>
__device__ __forceinline__ void tile_product(
    const Product& product, int tile, int begin, int end, real* partial, Four* left, Four* right) {
    constexpr int COLUMN_TILES = (H + TILE - 1) / TILE;
    const int m0 = tile / COLUMN_TILES * TILE, k0 = tile % COLUMN_TILES * TILE;
    const int half = threadIdx.x / HALF, x = threadIdx.x % FOURS, y = threadIdx.x % HALF / FOURS;
    const int each_half = (end - begin + 1) / 2;
    begin += half * each_half;
    end = min(begin + each_half, end);
    Four next_left[EACH], next_right[EACH], bias = {}, sums[8] = {};
    const auto fetch = [&](int depth) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int n = depth + y + i * ROWS_AT_ONCE;
            const long long row = max(min(n, end - 1), 0);
            next_left[i] = load_four<M>(product.left + row * M, m0 + 4 * x);
            next_right[i] = load_four<H>(product.right + row * H, k0 + 4 * x);
            if (n >= end) next_left[i] = {};
        }
    };
    fetch(begin);
    int buffer = 2 * half * BUFFER;
    for (int done = 0; done < each_half; done += DEPTH, buffer ^= BUFFER) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            left[buffer + (y + i * ROWS_AT_ONCE) * FOURS + x] = next_left[i];
            right[buffer + (y + i * ROWS_AT_ONCE) * FOURS + x] = next_right[i];
            add_scaled(next_left[i], 1, bias);
        }
        fetch(begin + done + DEPTH);  // before the barrier, or the compiler would put it off
        __syncthreads();
        const Four *lefts = left + buffer + 2 * y, *rights = right + buffer + x;
        Four a = lefts[0], b = lefts[1], k = rights[0];
#pragma unroll
        for (int n = 0; n < DEPTH; ++n) {
            const real m[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
            const Four now = k;
            const int next = min(n + 1, DEPTH - 1) * FOURS;
            a = lefts[next], b = lefts[next + 1], k = rights[next];
#pragma unroll
            for (int i = 0; i < 8; ++i) add_scaled(now, m[i], sums[i]);
        }
    }
    __syncthreads();
    right[threadIdx.x] = bias;  // [2 * ROWS_AT_ONCE][FOURS]
#pragma unroll
    for (int first = 0; first < 8; first += 4) {  // the other half's sums, as many at once as there is room
        if (half)
            for (int i = 0; i < 4; ++i) left[i * HALF + threadIdx.x % HALF] = sums[first + i];
        __syncthreads();
        if (!half)
            for (int i = 0; i < 4; ++i) add_scaled(left[i * HALF + threadIdx.x], 1, sums[first + i]);
        __syncthreads();
    }
    if (half) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int m = m0 + 8 * y + i;
        const real row[4] = {sums[i].x, sums[i].y, sums[i].z, sums[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int k = k0 + 4 * x + j;
            if (m < M && k < H) partial[product.weight_at + static_cast<long long>(m) * H + k] = row[j];
        }
    }
    const int m = m0 + threadIdx.x;
    if (product.bias_at < 0 || k0 || threadIdx.x >= TILE || m >= M) return;
    real sum = 0;
    for (int row = 0; row < 2 * ROWS_AT_ONCE; ++row) sum += reinterpret_cast<const real*>(right)[row * TILE + threadIdx.x];
    partial[product.bias_at + m] = sum;
}

/* gates [L,N,4H]: da; h [L,T+1,B,H]; dropped [L,N,H] or null; dlogits [N,V]; inputs [N] of this step. */
extern "C" __global__ void __launch_bounds__(GEMM_THREADS) weight_gradients(
    const real* gates, const real* h, const real* dropped, const real* dlogits, const int* inputs,
    const Progress* progress, real* partials, int T, int B, int splits) {
    SHARED(Four, left, 4 * BUFFER);
    SHARED(Four, right, 4 * BUFFER);
    SHARED(int, hits, GEMM_THREADS / 32 * SUM_IDS);
    const long long BH = static_cast<long long>(B) * H;
    const int N = T * B, split = blockIdx.x % splits;
    const int begin = N / splits * split + min(split, N % splits), end = begin + N / splits + (split < N % splits);
    const real* outputs = dropped ? dropped : h + BH;  // what layers hand on, [N,H] each
    const long long output_size = (dropped ? T : T + 1) * BH;
    real* partial = partials + split * PARAMETERS;
    int tile = blockIdx.x / splits;
    if (tile < (2 * L - 1) * tiles_of(4 * H)) {  // the two of a layer after each other, W_hh first
        const int number = tile / tiles_of(4 * H) + 1, layer = number / 2;
        const bool recurrent = layer == 0 || number % 2;
        const real* right_rows = recurrent ? h + layer * (T + 1) * BH : outputs + (layer - 1) * output_size;
        const Product product = {gates + layer * static_cast<long long>(N) * 4 * H, right_rows,
                                 recurrent ? weight_hh_at(layer) : weight_ih_at(layer), recurrent ? bias_at(layer) : -1};
        return tile_product<4 * H>(product, tile % tiles_of(4 * H), begin, end, partial, left, right);
    }
    tile -= (2 * L - 1) * tiles_of(4 * H);
    if (tile < tiles_of(V)) {
        return tile_product<V>({dlogits, outputs + (L - 1) * output_size, HEAD_WEIGHT_AT, HEAD_BIAS_AT}, tile, begin, end, partial, left, right);
    }
    tile -= tiles_of(V);
    constexpr int PARTS = (4 * H + SUM_COLUMNS - 1) / SUM_COLUMNS;
    const int warp = threadIdx.x / 32, job = tile * (GEMM_THREADS / 32) + warp, v = job / PARTS;
    if (v >= V) return;
    sum_rows_of_id(inputs + static_cast<long long>(progress->now.index) * N, begin, end, v, gates, 4 * H,
                   job % PARTS * SUM_COLUMNS, partial + v * 4 * H, &hits[warp * SUM_IDS]);
}
