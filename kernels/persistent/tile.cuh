/* tile.cuh: a warp's part of a matrix in registers, times rows in shared memory: by FFMA, or, with PRECISION, by mma.
 *   partials[warp,row,output] = sum over the warp's k of weight[output,k] * vectors[row,k]
 * Both kinds of tile say how many WARPS share K, how many OUTPUTS a warp has, how long a ROW is in shared memory and
 * where in it number k has its `place`. What lies beyond K is 0 in the weights and must be finite in the rows, of
 * which there is ROOM. The sums of the warps that share outputs are for the caller to add.
 */
#pragma once

#include "common/four.cuh"

#ifndef ROWS
#define ROWS 2
#endif

#ifdef PRECISION
constexpr int AT_ONCE = 8;                // rows of a product
#else
constexpr int AT_ONCE = 2;
#endif
constexpr int ROOM = (ROWS + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
constexpr int MOST = 128 / sizeof(real);  // inputs of a thread

/* A warp's part of a matrix [outputs,K] in registers. A thread has 4 outputs and a slice of K, which it shares with
 * LANES - 1 lanes; slices are the high bits of the lane. WARPS warps share the same outputs.
 * Rows in shared memory are slices STRIDE apart, so that lanes of different slices hit different banks; what lies
 * beyond K is 0 in the weights and must be finite there.
 */
template <int K, int LANES>
struct Tile {
    static constexpr int WARPS = (K + LANES * MOST - 1) / (LANES * MOST), SLICES = WARPS * LANES;
    static constexpr int SLICE = ((K + SLICES - 1) / SLICES + 3) / 4 * 4, STRIDE = SLICE + (SLICE / 4 % 2 ? 0 : 4);
    static constexpr int ROW = SLICES * STRIDE;           // numbers of a row
    static constexpr int OUTPUTS = 4 * (32 / LANES);      // of a warp
    Four weights[SLICE];                              // [input], of the four outputs

    /* at(output, k): the weights of inputs k to k+3 of an output. */
    template <class At>
    __device__ __forceinline__ void load_rows(At at) {
#pragma unroll
        for (int k = 0; k < SLICE; k += 4) {
            const int first = slice() * SLICE + k;
            const Four a = at(output(), first), b = at(output() + 1, first), c = at(output() + 2, first), d = at(output() + 3, first);
            weights[k] = {a.x, b.x, c.x, d.x};
            weights[k + 1] = {a.y, b.y, c.y, d.y};
            weights[k + 2] = {a.z, b.z, c.z, d.z};
            weights[k + 3] = {a.w, b.w, c.w, d.w};
        }
    }
    /* at(output, k): the weights of an input of four outputs. */
    template <class At>
    __device__ __forceinline__ void load_columns(At at) {
#pragma unroll
        for (int k = 0; k < SLICE; ++k) weights[k] = at(output(), slice() * SLICE + k);
    }

    static __device__ __forceinline__ int place(int k) { return k / SLICE * STRIDE + k % SLICE; }
    /* The first output and the first input of the thread. */
    static __device__ __forceinline__ int output() { return threadIdx.x / 32 / WARPS * OUTPUTS + threadIdx.x % (32 / LANES) * 4; }
    static __device__ __forceinline__ int slice() { return threadIdx.x / 32 % WARPS * LANES + threadIdx.x % 32 / (32 / LANES); }

    /* partials[WARPS][ROOM][outputs of the block] = the product with `rows` rows, each warp's share. */
    template <int BLOCK_OUTPUTS>
    __device__ __forceinline__ void multiply(const real* vectors, int rows, real* partials) const {
        const int lane = threadIdx.x % 32;
        const Four* in = reinterpret_cast<const Four*>(vectors + slice() * STRIDE);
        partials += (threadIdx.x / 32 % WARPS * ROOM + lane / 16) * BLOCK_OUTPUTS + output() + lane / 4 % 4;
#pragma unroll 1
        for (int row = 0; row < rows; row += AT_ONCE) {
            Four products[AT_ONCE] = {};
#pragma unroll
            for (int k = 0; k < SLICE / 4; ++k)
#pragma unroll
                for (int r = 0; r < AT_ONCE; ++r) {
                    const Four x = in[r * ROW / 4 + k];
                    add_scaled(weights[4 * k], x.x, products[r]);
                    add_scaled(weights[4 * k + 1], x.y, products[r]);
                    add_scaled(weights[4 * k + 2], x.z, products[r]);
                    add_scaled(weights[4 * k + 3], x.w, products[r]);
                }
            in += AT_ONCE * ROW / 4;
            real sums[4 * AT_ONCE];
#pragma unroll
            for (int r = 0; r < AT_ONCE; ++r) {
                sums[4 * r] = products[r].x, sums[4 * r + 1] = products[r].y;
                sums[4 * r + 2] = products[r].z, sums[4 * r + 3] = products[r].w;
            }
            // Halve what a lane has while halving the lanes that share it: number lane / 4 stays.
#pragma unroll
            for (int count = 4; count; count /= 2) {
                const bool upper = lane & 4 * count;
#pragma unroll
                for (int i = 0; i < count; ++i)
                    sums[i] = (upper ? sums[i + count] : sums[i]) +
                              __shfl_xor_sync(~0u, upper ? sums[i] : sums[i + count], 4 * count);
            }
#pragma unroll
            for (int distance = 2; distance >= 32 / LANES; distance /= 2)
                sums[0] += __shfl_xor_sync(~0u, sums[0], distance);
            if (LANES == 8 || !(lane & 2)) partials[row * BLOCK_OUTPUTS] = sums[0];  // of lanes that share it, one
        }
    }
};

#ifdef PRECISION
/* By mma: 16 outputs a warp are the rows of A, whose fragments stay in registers, rounded; a product's 8 rows are the
 * columns of B, rounded as they are read. Rows are so far apart that 8 of them begin in different banks.
 */
template <int K>
struct TensorTile {
    using Operand = PRECISION;
    static constexpr int NUMBERS = 8 * Operand::PER_WORD;  // of k, in a fragment
    static constexpr int WARPS = (K + 32 * NUMBERS - 1) / (32 * NUMBERS), EACH = (K + WARPS * NUMBERS - 1) / (WARPS * NUMBERS);
    static constexpr int OUTPUTS = 16, ROW = (WARPS * EACH * NUMBERS + 31) / 32 * 32 + 4 * Operand::PER_WORD;
    unsigned weights[EACH][4];

    static __device__ __forceinline__ int place(int k) { return k; }
    /* Of the words of the thread's fragments: output, and k, of word `word` of fragment `fragment`. */
    static __device__ __forceinline__ int output(int word) { return threadIdx.x / 32 / WARPS * OUTPUTS + threadIdx.x % 32 / 4 + word % 2 * 8; }
    static __device__ __forceinline__ int input(int fragment, int word) {
        return (threadIdx.x / 32 % WARPS * EACH + fragment) * NUMBERS + (threadIdx.x % 4 + word / 2 * 4) * Operand::PER_WORD;
    }
    /* at(output, k): a weight. */
    template <class At>
    __device__ __forceinline__ void load(At at) {
        unsigned seen = 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
#pragma unroll
            for (int word = 0; word < 4; ++word) {
                real numbers[Operand::PER_WORD];
#pragma unroll
                for (int n = 0; n < Operand::PER_WORD; ++n) {
                    const int k = input(i, word) + n;
                    numbers[n] = WARPS * EACH * NUMBERS == K || k < K ? at(output(word), k) : real(0);
                }
                seen |= weights[i][word] = Operand::word(numbers);
            }
            // It asks for words: else ptxas would load all numbers first, and round them once it is out of registers.
            if (i % 4 == 3) __syncthreads_or(seen);
        }
    }

    template <int BLOCK_OUTPUTS>
    __device__ __forceinline__ void multiply(const real* vectors, int rows, real* partials) const {
        const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
        partials += (threadIdx.x / 32 % WARPS * ROOM + 2 * member) * BLOCK_OUTPUTS + output(0);
        for (int row = 0; row < rows; row += AT_ONCE) {
            const real* in = vectors + (row + group) * ROW + input(0, 0);
            real sums[2][4] = {};  // of fragments that are even, and odd: one would have to wait for the other
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                const unsigned words[2] = {Operand::word(in + i * NUMBERS), Operand::word(in + i * NUMBERS + NUMBERS / 2)};
                Operand::mma(sums[i % 2], weights[i], words);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) partials[(row + i % 2) * BLOCK_OUTPUTS + i / 2 * 8] = sums[0][i] + sums[1][i];
        }
    }
};
#endif
