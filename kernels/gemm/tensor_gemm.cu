/* tensor_gemm.cu: a product of matrices on the tensor cores.
 *   out[m,n] = sum over k of op(a)[m,k] * op(b)[k,n]     (+ out[m,n] with `accumulate`)
 * a [M,K], or [K,M] with ta; b [K,N], or [N,K] with tb: op transposes where ta or tb says so
 * out [M,N] out, with accumulate in too; all float32, C-contiguous, no aliasing
 * Operands are rounded to PRECISION on their way into shared memory. Sums are float32. A sum begins with out's number,
 * or with 0 without `accumulate`, and fragments are added to it in the order of k; in which order mma adds within a
 * fragment is the hardware's.
 * Thread assignment: a block has TILE x TILE of out, each of its warps 32 x TILE/4. While DEPTH of the k are
 * multiplied, the next DEPTH are on their way into registers: each thread has one PIECE of a row of op(a), and one of
 * op(b) transposed. Rows in shared memory are STRIDE = 20 words apart, so that 8 of them begin in 8 different sets of 4
 * banks: lanes that store or load at the same time never need the same bank.
 * Source: PTX ISA, "mma" (hardware.cuh). Reference: numpy.matmul
 */
#include "common/hardware.cuh"

#ifndef PRECISION
#define PRECISION Fp16
#endif
#ifndef TILE
#define TILE 64
#endif
using Operand = PRECISION;

constexpr int WORDS = 16, STRIDE = WORDS + 4;     // of a row in shared memory; from one row to the next
constexpr int PIECE = 4 * Operand::PER_WORD;      // numbers in four words
constexpr int DEPTH = WORDS * Operand::PER_WORD;  // numbers in a row
constexpr int THREADS = TILE * WORDS / 4;         // one for each piece of an operand's TILE rows
constexpr int FRAGMENT_ROWS = 32 / 16, FRAGMENT_COLUMNS = TILE / 4 / 8;  // in which a warp's share of out is computed

/* op(a), or op(b) transposed: `rows` rows of K numbers, stored as they are, or, if transposed, as [K,rows]. */
struct OperandRows {
    const float* numbers;
    int rows, K;
    bool transposed;

    /* Loads numbers [k, k + PIECE) of a row; 0 for those that are outside. */
    __device__ __forceinline__ void fetch(int row, int k, float (&piece)[PIECE]) const {
        const long long stride = transposed ? rows : 1;
        const float* at = numbers + (transposed ? k * stride + row : static_cast<long long>(row) * K + k);
        if (!transposed && K % 4 == 0 && reinterpret_cast<unsigned long long>(numbers) % 16 == 0) {
#pragma unroll
            for (int i = 0; i < PIECE / 4; ++i) {
                const bool inside = row < rows && k + 4 * i < K;
                const float4 four = inside ? reinterpret_cast<const float4*>(at)[i] : float4{};
                piece[4 * i] = four.x;
                piece[4 * i + 1] = four.y;
                piece[4 * i + 2] = four.z;
                piece[4 * i + 3] = four.w;
            }
        } else {
#pragma unroll
            for (int i = 0; i < PIECE; ++i) piece[i] = row < rows && k + i < K ? at[i * stride] : 0.0f;
        }
    }
};

/* Rounds a piece and stores its four words. */
__device__ __forceinline__ void store(const float (&piece)[PIECE], unsigned* words) {
    const auto word = [&](int w) { return Operand::word(piece + w * Operand::PER_WORD); };
    *reinterpret_cast<uint4*>(words) = {word(0), word(1), word(2), word(3)};
}

extern "C" __global__ void __launch_bounds__(THREADS) tensor_gemm(
    const float* a, const float* b, float* out, int M, int N, int K, int ta, int tb, int accumulate) {
    SHARED(uint4, fours, 2 * 2 * TILE * STRIDE / 4);
    unsigned* words = reinterpret_cast<unsigned*>(fours);  // [2 buffers][a, then b][TILE][STRIDE]
    const int tiles = (N + TILE - 1) / TILE, first_m = blockIdx.x / tiles * TILE, first_n = blockIdx.x % tiles * TILE;
    const int warp = threadIdx.x / 32, quad = threadIdx.x % 32 / 4, member = threadIdx.x % 4;  // hardware.cuh
    const int warp_m = warp / 4 * 32, warp_n = warp % 4 * (TILE / 4);  // where in the tile the warp's share begins
    const int piece_row = warp * 8 + threadIdx.x % 8, quarter = threadIdx.x / 8 % 4;  // its piece
    const OperandRows left = {a, M, K, ta != 0}, right = {b, N, K, tb == 0};
    float of_left[PIECE], of_right[PIECE];
    float sums[FRAGMENT_ROWS][FRAGMENT_COLUMNS][4] = {};
    const auto for_each = [&](auto work) {  // calls work(sum, number of out) for all of this thread's sums
#pragma unroll
        for (int index = 0; index < FRAGMENT_ROWS * FRAGMENT_COLUMNS * 4; ++index) {
            const int number = index % 4, j = index / 4 % FRAGMENT_COLUMNS, i = index / 4 / FRAGMENT_COLUMNS;
            const int m = first_m + warp_m + 16 * i + quad + number / 2 * 8;
            const int n = first_n + warp_n + 8 * j + 2 * member + number % 2;
            if (m < M && n < N) work(sums[i][j][number], out[static_cast<long long>(m) * N + n]);
        }
    };
    if (accumulate) for_each([](float& sum, float number) { sum = number; });  // all on their way at once
    left.fetch(first_m + piece_row, quarter * PIECE, of_left);
    right.fetch(first_n + piece_row, quarter * PIECE, of_right);
    for (int k = 0; k < K; k += DEPTH) {
        unsigned* buffer = words + k / DEPTH % 2 * (2 * TILE * STRIDE);
        store(of_left, buffer + piece_row * STRIDE + 4 * quarter);
        store(of_right, buffer + (TILE + piece_row) * STRIDE + 4 * quarter);
        left.fetch(first_m + piece_row, k + DEPTH + quarter * PIECE, of_left);
        right.fetch(first_n + piece_row, k + DEPTH + quarter * PIECE, of_right);
        __syncthreads();
#pragma unroll
        for (int word = member; word < WORDS; word += 8) {
            const unsigned *at_a = buffer + (warp_m + quad) * STRIDE + word;
            const unsigned *at_b = buffer + (TILE + warp_n + quad) * STRIDE + word;
            unsigned of_b[FRAGMENT_COLUMNS][2];
#pragma unroll
            for (int j = 0; j < FRAGMENT_COLUMNS; ++j) {
                of_b[j][0] = at_b[8 * j * STRIDE];
                of_b[j][1] = at_b[8 * j * STRIDE + 4];
            }
#pragma unroll
            for (int i = 0; i < FRAGMENT_ROWS; ++i) {
                const unsigned* at = at_a + 16 * i * STRIDE;
                const unsigned of_a[4] = {at[0], at[8 * STRIDE], at[4], at[8 * STRIDE + 4]};
#pragma unroll
                for (int j = 0; j < FRAGMENT_COLUMNS; ++j) Operand::mma(sums[i][j], of_a, of_b[j]);
            }
        }
    }
    for_each([](float sum, float& number) { number = sum; });
}
