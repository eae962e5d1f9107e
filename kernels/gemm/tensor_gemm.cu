/* tensor_gemm.cu: a product of matrices on the tensor cores.
 *   out[m,n] = sum over k of op(a)[m,k] * op(b)[k,n]     (+ out[m,n] with `accumulate`)
 * op transposes where asked: a [M,K] or [K,M], b [K,N] or [N,K], out [M,N]: float32, C-contiguous, no aliasing.
 * Operands are rounded to PRECISION on their way into shared memory; sums are float32, in one order.
 * A block has TILE x TILE of out, a warp of it 32 x TILE/4; while DEPTH of k are multiplied, the next are on their
 * way into registers, a thread having one PIECE of a row of either operand. Rows in shared memory are 20 words apart, so that 8 of them begin in 8 different groups of
 * 4 banks: neither the four words that a lane stores nor the fragments that it loads meet another's in a bank.
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

constexpr int WORDS = 16, STRIDE = WORDS + 4, PIECE = 4 * Operand::PER_WORD;  // words of a row; numbers of four words
constexpr int DEPTH = WORDS * Operand::PER_WORD, THREADS = TILE * WORDS / 4;
constexpr int ROWS = 32 / 16, COLUMNS = TILE / 4 / 8;  // fragments of a warp

/* op(a), or op(b) transposed: rows of K numbers, one after the other, or `turned` [K,rows]. */
struct Matrix {
    const float* numbers;
    int rows, K;
    bool turned;

    /* Numbers [k, k + PIECE) of a row; 0 for what lies outside. */
    __device__ __forceinline__ void fetch(int row, int k, float (&piece)[PIECE]) const {
        const long long step = turned ? rows : 1;
        const float* at = numbers + (turned ? k * step + row : static_cast<long long>(row) * K + k);
        if (!turned && K % 4 == 0 && reinterpret_cast<unsigned long long>(numbers) % 16 == 0) {
#pragma unroll
            for (int i = 0; i < PIECE / 4; ++i) {
                const bool inside = row < rows && k + 4 * i < K;
                const float4 four = inside ? reinterpret_cast<const float4*>(at)[i] : float4{};
                piece[4 * i] = four.x, piece[4 * i + 1] = four.y, piece[4 * i + 2] = four.z, piece[4 * i + 3] = four.w;
            }
        } else {
#pragma unroll
            for (int i = 0; i < PIECE; ++i) piece[i] = row < rows && k + i < K ? at[i * step] : 0.0f;
        }
    }
};

__device__ __forceinline__ void store(const float (&piece)[PIECE], unsigned* words) {
    const auto word = [&](int w) { return Operand::word(piece + w * Operand::PER_WORD); };
    *reinterpret_cast<uint4*>(words) = {word(0), word(1), word(2), word(3)};
}

extern "C" __global__ void __launch_bounds__(THREADS) tensor_gemm(
    const float* a, const float* b, float* out, int M, int N, int K, int ta, int tb, int accumulate) {
    SHARED(uint4, fours, 2 * 2 * TILE * STRIDE / 4);
    unsigned* words = reinterpret_cast<unsigned*>(fours);  // [2 buffers][a, then b][TILE][STRIDE]
    const int tiles = (N + TILE - 1) / TILE, first_m = blockIdx.x / tiles * TILE, first_n = blockIdx.x % tiles * TILE;
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    const int row = warp / 4 * 32, column = warp % 4 * (TILE / 4);  // where the warp's part begins
    const int mine = warp * 8 + threadIdx.x % 8, quarter = threadIdx.x / 8 % 4;  // this thread's row, and part of it
    const Matrix left = {a, M, K, ta != 0}, right = {b, N, K, tb == 0};
    float of_left[PIECE], of_right[PIECE];
    float sums[ROWS][COLUMNS][4] = {};
    const auto for_each = [&](auto work) {  // of this thread's sums, with its place in out
#pragma unroll
        for (int index = 0; index < ROWS * COLUMNS * 4; ++index) {
            const int number = index % 4, j = index / 4 % COLUMNS, i = index / 4 / COLUMNS;
            const int m = first_m + row + 16 * i + group + number / 2 * 8;
            const int n = first_n + column + 8 * j + 2 * member + number % 2;
            if (m < M && n < N) work(sums[i][j][number], out[static_cast<long long>(m) * N + n]);
        }
    };
    if (accumulate) for_each([](float& sum, float number) { sum = number; });  // all on their way at once
    left.fetch(first_m + mine, quarter * PIECE, of_left);
    right.fetch(first_n + mine, quarter * PIECE, of_right);
    for (int k = 0; k < K; k += DEPTH) {
        unsigned* buffer = words + k / DEPTH % 2 * (2 * TILE * STRIDE);
        store(of_left, buffer + mine * STRIDE + 4 * quarter);
        store(of_right, buffer + (TILE + mine) * STRIDE + 4 * quarter);
        left.fetch(first_m + mine, k + DEPTH + quarter * PIECE, of_left);
        right.fetch(first_n + mine, k + DEPTH + quarter * PIECE, of_right);
        __syncthreads();
#pragma unroll
        for (int word = member; word < WORDS; word += 8) {
            const unsigned *at_a = buffer + (row + group) * STRIDE + word;
            const unsigned *at_b = buffer + (TILE + column + group) * STRIDE + word;
            unsigned of_b[COLUMNS][2];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) of_b[j][0] = at_b[8 * j * STRIDE], of_b[j][1] = at_b[8 * j * STRIDE + 4];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                const unsigned* at = at_a + 16 * i * STRIDE;
                const unsigned of_a[4] = {at[0], at[8 * STRIDE], at[4], at[8 * STRIDE + 4]};
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) Operand::mma(sums[i][j], of_a, of_b[j]);
            }
        }
    }
    for_each([](float sum, float& number) { number = sum; });
}
