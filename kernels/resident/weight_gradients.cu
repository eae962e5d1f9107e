/* weight_gradients.cu: all gradients of the resident regime's parameters, in one launch.
 *   dW [M,H] = sum over n of left[n,M] times right[n,H]     dbias [M] = sum over n of left[n,M]     (n = t*B + b)
 *     of a layer: left = da, right = h before the time step (W_hh) or what the layer reads (W_ih)
 *     of the head: left = dlogits, right = what the last layer hands on
 *   layer 0's dW_ih [V,4H]: each row the sum of the da of one character
 * gates [L,N,4H] in: da; h [L,T+1,B,H] in; dropped [L,N,H] in, or null; dlogits [N,V] in
 * inputs in: [N] for each window of the chunk; progress in: which window of the chunk this is
 * partials [splits,PARAMETERS] out: each split is the sum over its own share of the n, N/splits of them, the first
 *   N%splits splits having one more; gradient_norm.cu adds the splits in their order
 * Thread assignment: a block computes for one split either a tile of TILE x TILE of one dW, or eight characters' rows,
 * a warp each. For a tile, each half of the block's threads takes half of the split's n, and a thread 8 x 4 numbers of
 * the tile; the rows of the next DEPTH n are on their way while those before are multiplied.
 * Sums: a number of the tile is the first half's sum, in the order of n, plus the second half's. For a bias, FETCH_ROWS
 * threads in each half add every FETCH_ROWS-th n, and their sums are added one after the other.
 * Reference: numpy_engine._weight_gradient, sum_columns_by_id
 */
#include "common/four.cuh"
#include "common/step.cuh"
#include "training/sums.cuh"

constexpr int TILE = 64, DEPTH = 64 / sizeof(real);
constexpr int HALF_THREADS = 128, GEMM_THREADS = 2 * HALF_THREADS;
constexpr int FOURS = TILE / 4;                   // of numbers, in a row of the tile
constexpr int FETCH_ROWS = HALF_THREADS / FOURS;  // n whose rows half of the block fetches at once
constexpr int FETCHES = DEPTH / FETCH_ROWS;       // of a thread, for DEPTH n
constexpr int BUFFER = DEPTH * FOURS;             // fours of one operand, for DEPTH n

/* What is multiplied, and where in the flat buffer the results go. */
struct WeightGradient {
    const real *left, *right;      // [N,M], [N,H]
    long long weight_at, bias_at;  // bias_at is -1 where another matrix with the same left has the bias
};

__host__ __device__ constexpr int tiles_of(int M) { return (M + TILE - 1) / TILE * ((H + TILE - 1) / TILE); }

/* Tile `tile` of a dW, summed over n in [begin, end), into this split's partials. left, right: 4 * BUFFER each of
 * shared memory; each half of the threads has two buffers there, which it uses in turns.
 */
template <int M>
__device__ __forceinline__ void tile_product(
    const WeightGradient& gradient, int tile, int begin, int end, real* split_partials, Four* left, Four* right) {
    constexpr int COLUMN_TILES = (H + TILE - 1) / TILE;
    const int m0 = tile / COLUMN_TILES * TILE, k0 = tile % COLUMN_TILES * TILE;
    const int half = threadIdx.x / HALF_THREADS, x = threadIdx.x % FOURS, y = threadIdx.x % HALF_THREADS / FOURS;
    const int each_half = (end - begin + 1) / 2;
    begin += half * each_half;
    end = min(begin + each_half, end);
    Four next_left[FETCHES], next_right[FETCHES], bias = {}, sums[8] = {};
    const auto fetch = [&](int depth) {
#pragma unroll
        for (int i = 0; i < FETCHES; ++i) {
            const int n = depth + y + i * FETCH_ROWS;
            const long long row = max(min(n, end - 1), 0);
            next_left[i] = load_four<M>(gradient.left + row * M, m0 + 4 * x);
            next_right[i] = load_four<H>(gradient.right + row * H, k0 + 4 * x);
            if (n >= end) next_left[i] = {};
        }
    };
    fetch(begin);
    int buffer = 2 * half * BUFFER;
    for (int done = 0; done < each_half; done += DEPTH, buffer ^= BUFFER) {
#pragma unroll
        for (int i = 0; i < FETCHES; ++i) {
            left[buffer + (y + i * FETCH_ROWS) * FOURS + x] = next_left[i];
            right[buffer + (y + i * FETCH_ROWS) * FOURS + x] = next_right[i];
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
            a = lefts[next];
            b = lefts[next + 1];
            k = rights[next];
#pragma unroll
            for (int i = 0; i < 8; ++i) add_scaled(now, m[i], sums[i]);
        }
    }
    __syncthreads();
    right[threadIdx.x] = bias;  // [2 * FETCH_ROWS][FOURS]
    // The second half of the threads hands its sums to the first, as many at once as `left` has room for.
#pragma unroll
    for (int first = 0; first < 8; first += 4) {
        if (half)
            for (int i = 0; i < 4; ++i) left[i * HALF_THREADS + threadIdx.x % HALF_THREADS] = sums[first + i];
        __syncthreads();
        if (!half)
            for (int i = 0; i < 4; ++i) add_scaled(left[i * HALF_THREADS + threadIdx.x], 1, sums[first + i]);
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
            if (m < M && k < H) split_partials[gradient.weight_at + static_cast<long long>(m) * H + k] = row[j];
        }
    }
    const int m = m0 + threadIdx.x;
    if (gradient.bias_at < 0 || k0 || threadIdx.x >= TILE || m >= M) return;
    const real* biases = reinterpret_cast<const real*>(right);
    real sum = 0;
    for (int row = 0; row < 2 * FETCH_ROWS; ++row) sum += biases[row * TILE + threadIdx.x];
    split_partials[gradient.bias_at + m] = sum;
}

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
    real* split_partials = partials + split * PARAMETERS;
    int tile = blockIdx.x / splits;
    if (tile < (2 * L - 1) * tiles_of(4 * H)) {  // a layer's two matrices follow each other, W_hh first
        const int number = tile / tiles_of(4 * H) + 1, layer = number / 2;
        const bool recurrent = layer == 0 || number % 2;
        const real* right_rows = recurrent ? h + layer * (T + 1) * BH : outputs + (layer - 1) * output_size;
        const WeightGradient gradient = {gates + layer * static_cast<long long>(N) * 4 * H, right_rows,
                                         recurrent ? weight_hh_at(layer) : weight_ih_at(layer),
                                         recurrent ? bias_at(layer) : -1};
        return tile_product<4 * H>(gradient, tile % tiles_of(4 * H), begin, end, split_partials, left, right);
    }
    tile -= (2 * L - 1) * tiles_of(4 * H);
    if (tile < tiles_of(V)) {
        const real* right_rows = outputs + (L - 1) * output_size;
        return tile_product<V>({dlogits, right_rows, HEAD_WEIGHT_AT, HEAD_BIAS_AT}, tile, begin, end, split_partials,
                               left, right);
    }
    tile -= tiles_of(V);
    constexpr int STRIPS = (4 * H + SUM_COLUMNS - 1) / SUM_COLUMNS;  // of SUM_COLUMNS columns, in a row
    const int warp = threadIdx.x / 32, job = tile * (GEMM_THREADS / 32) + warp, v = job / STRIPS;
    if (v >= V) return;
    const int* ids = inputs + static_cast<long long>(progress->now.index) * N;
    sum_rows_of_id(ids, begin, end, v, gates, 4 * H, job % STRIPS * SUM_COLUMNS, split_partials + v * 4 * H,
                   &hits[warp * SUM_IDS]);
}
