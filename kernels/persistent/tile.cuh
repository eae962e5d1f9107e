/* tile.cuh: a block's share of a weight matrix, in its warps' registers, times rows in shared memory: by FFMA, or, with
 * the macro PRECISION, by mma on tensor cores.
 *   partials[warp,row,output] = sum over the warp's k of weight[output,k] * vectors[row,k]
 * A warp has OUTPUTS of the outputs and a share of K; WARPS warps share the same outputs and divide K among them.
 * `partials` are their sums, which the caller adds in the order of the warps.
 * Both kinds of tile tell the caller how to lay out a row of K numbers in shared memory: it takes ROW_LENGTH numbers,
 * and number k of it is at index_in_row(k). Products take PRODUCT_ROWS rows at once, so there must be ROOM rows. What
 * lies beyond K is 0 in the weights and must be finite in the rows.
 */
#pragma once

#include "common/four.cuh"

#ifndef ROWS
#define ROWS 2  // the most rows that a product is asked for
#endif

#ifdef PRECISION
constexpr int PRODUCT_ROWS = 8;
#else
constexpr int PRODUCT_ROWS = 2;
#endif
constexpr int ROOM = (ROWS + PRODUCT_ROWS - 1) / PRODUCT_ROWS * PRODUCT_ROWS;  // ROWS, rounded up to whole products
constexpr int MOST_INPUTS = 128 / sizeof(real);  // the most k for which a thread holds weights

/* By FFMA. A thread holds the weights of 4 outputs for a slice of K. The LANES lanes that agree in lane % (32 / LANES)
 * have the same outputs and different slices: the slice is in the lane's high bits.
 * A row in shared memory is its slices, STRIDE apart, so that lanes of different slices read different banks.
 */
template <int K, int LANES>
struct Tile {
    static constexpr int WARPS = (K + LANES * MOST_INPUTS - 1) / (LANES * MOST_INPUTS), SLICES = WARPS * LANES;
    static constexpr int SLICE = ((K + SLICES - 1) / SLICES + 3) / 4 * 4, STRIDE = SLICE + (SLICE / 4 % 2 ? 0 : 4);
    static constexpr int ROW_LENGTH = SLICES * STRIDE;
    static constexpr int OUTPUTS = 4 * (32 / LANES);  // of a warp
    Four weights[SLICE];                              // [input], of the four outputs

    /* at(output, k): the weights of one output for inputs k to k + 3. */
    template <class At>
    __device__ __forceinline__ void load_rows(At at) {
#pragma unroll
        for (int k = 0; k < SLICE; k += 4) {
            const int first = slice() * SLICE + k;
            const Four a = at(output(), first), b = at(output() + 1, first);
            const Four c = at(output() + 2, first), d = at(output() + 3, first);
            weights[k] = {a.x, b.x, c.x, d.x};
            weights[k + 1] = {a.y, b.y, c.y, d.y};
            weights[k + 2] = {a.z, b.z, c.z, d.z};
            weights[k + 3] = {a.w, b.w, c.w, d.w};
        }
    }
    /* at(output, k): the weights of outputs `output` to output + 3 for one input. */
    template <class At>
    __device__ __forceinline__ void load_columns(At at) {
#pragma unroll
        for (int k = 0; k < SLICE; ++k) weights[k] = at(output(), slice() * SLICE + k);
    }

    static __device__ __forceinline__ int index_in_row(int k) { return k / SLICE * STRIDE + k % SLICE; }
    /* The first of the thread's four outputs, among the block's. */
    static __device__ __forceinline__ int output() {
        return threadIdx.x / 32 / WARPS * OUTPUTS + threadIdx.x % (32 / LANES) * 4;
    }
    /* The number of the thread's slice. */
    static __device__ __forceinline__ int slice() {
        return threadIdx.x / 32 % WARPS * LANES + threadIdx.x % 32 / (32 / LANES);
    }

    /* partials[WARPS][ROOM][BLOCK_OUTPUTS] = the warps' sums for `rows` rows. A thread adds its slice in the order of
     * k, for PRODUCT_ROWS rows times 4 outputs; then the lanes with the same outputs add theirs, 16 apart first.
     */
    template <int BLOCK_OUTPUTS>
    __device__ __forceinline__ void multiply(const real* vectors, int rows, real* partials) const {
        const int lane = threadIdx.x % 32;
        const Four* in = reinterpret_cast<const Four*>(vectors + slice() * STRIDE);
        partials += (threadIdx.x / 32 % WARPS * ROOM + lane / 16) * BLOCK_OUTPUTS + output() + lane / 4 % 4;
#pragma unroll 1
        for (int row = 0; row < rows; row += PRODUCT_ROWS) {
            Four products[PRODUCT_ROWS] = {};
#pragma unroll
            for (int k = 0; k < SLICE / 4; ++k)
#pragma unroll
                for (int r = 0; r < PRODUCT_ROWS; ++r) {
                    const Four x = in[r * ROW_LENGTH / 4 + k];
                    add_scaled(weights[4 * k], x.x, products[r]);
                    add_scaled(weights[4 * k + 1], x.y, products[r]);
                    add_scaled(weights[4 * k + 2], x.z, products[r]);
                    add_scaled(weights[4 * k + 3], x.w, products[r]);
                }
            in += PRODUCT_ROWS * ROW_LENGTH / 4;
            real sums[4 * PRODUCT_ROWS];
#pragma unroll
            for (int r = 0; r < PRODUCT_ROWS; ++r) {
                sums[4 * r] = products[r].x;
                sums[4 * r + 1] = products[r].y;
                sums[4 * r + 2] = products[r].z;
                sums[4 * r + 3] = products[r].w;
            }
            // Each round halves the sums that a lane goes on with: lanes 16, 8 and 4 apart keep different halves, and
            // send each other the rest. Of the eight sums, number lane / 4 stays.
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
            if (LANES == 8 || !(lane & 2)) partials[row * BLOCK_OUTPUTS] = sums[0];  // of lanes that have it, one
        }
    }
};

#ifdef PRECISION
/* By mma, whose operands are rounded to PRECISION (hardware.cuh says which lane holds what). A warp's 16 outputs are
 * the rows of A, whose fragments stay in registers, rounded once. PRODUCT_ROWS = 8 rows are the columns of B, rounded
 * as they are read. A row's padding has 8 rows begin in different banks.
 */
template <int K>
struct TensorTile {
    using Operand = PRECISION;
    static constexpr int NUMBERS = 8 * Operand::PER_WORD;                            // of k, in a fragment
    static constexpr int WARPS = (K + 32 * NUMBERS - 1) / (32 * NUMBERS);
    static constexpr int FRAGMENTS = (K + WARPS * NUMBERS - 1) / (WARPS * NUMBERS);  // of a warp
    static constexpr int OUTPUTS = 16;                                               // of a warp
    static constexpr int ROW_LENGTH = (WARPS * FRAGMENTS * NUMBERS + 31) / 32 * 32 + 4 * Operand::PER_WORD;
    unsigned weights[FRAGMENTS][4];

    static __device__ __forceinline__ int index_in_row(int k) { return k; }
    /* The output, among the block's, to which word `word` of each of the thread's fragments belongs. */
    static __device__ __forceinline__ int output(int word) {
        return threadIdx.x / 32 / WARPS * OUTPUTS + threadIdx.x % 32 / 4 + word % 2 * 8;
    }
    /* The k of the first number of word `word` of the thread's fragment `fragment`. */
    static __device__ __forceinline__ int input(int fragment, int word) {
        return (threadIdx.x / 32 % WARPS * FRAGMENTS + fragment) * NUMBERS +
               (threadIdx.x % 4 + word / 2 * 4) * Operand::PER_WORD;
    }
    /* at(output, k): a weight. */
    template <class At>
    __device__ __forceinline__ void load(At at) {
        unsigned seen = 0;
#pragma unroll
        for (int i = 0; i < FRAGMENTS; ++i) {
#pragma unroll
            for (int word = 0; word < 4; ++word) {
                real numbers[Operand::PER_WORD];
#pragma unroll
                for (int n = 0; n < Operand::PER_WORD; ++n) {
                    const int k = input(i, word) + n;
                    numbers[n] = WARPS * FRAGMENTS * NUMBERS == K || k < K ? at(output(word), k) : real(0);
                }
                weights[i][word] = Operand::word(numbers);
                seen |= weights[i][word];
            }
            // This barrier needs the rounded words. Without it ptxas would load all numbers first, and round them only
            // once it is out of registers.
            if (i % 4 == 3) __syncthreads_or(seen);
        }
    }

    /* As Tile's. Within a warp the sums are mma's, over even and over odd fragments, which are added last. */
    template <int BLOCK_OUTPUTS>
    __device__ __forceinline__ void multiply(const real* vectors, int rows, real* partials) const {
        const int quad = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
        partials += (threadIdx.x / 32 % WARPS * ROOM + 2 * member) * BLOCK_OUTPUTS + output(0);
        for (int row = 0; row < rows; row += PRODUCT_ROWS) {
            const real* in = vectors + (row + quad) * ROW_LENGTH + input(0, 0);
            real sums[2][4] = {};  // of even and of odd fragments: with one sum, each mma would wait for the last
#pragma unroll
            for (int i = 0; i < FRAGMENTS; ++i) {
                const real* numbers = in + i * NUMBERS;
                const unsigned words[2] = {Operand::word(numbers), Operand::word(numbers + NUMBERS / 2)};
                Operand::mma(sums[i % 2], weights[i], words);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) partials[(row + i % 2) * BLOCK_OUTPUTS + i / 2 * 8] = sums[0][i] + sums[1][i];
        }
    }
};
#endif
