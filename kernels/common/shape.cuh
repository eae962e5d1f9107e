/* shape.cuh: the model's sizes, which are macros when a kernel is compiled, and where each tensor begins in the flat
 * buffer. The buffer is laid out as in cuchar/parameters.py, except that lstm.weight_ih_l0 is [V,4H] here, one row a
 * character. A function or constant that ends in `_at` is the index of a tensor's first number in the buffer.
 */
#pragma once

#ifndef HIDDEN
#define HIDDEN 64
#endif
#ifndef LAYERS
#define LAYERS 2
#endif
#ifndef VOCABULARY
#define VOCABULARY 84
#endif

constexpr int H = HIDDEN, L = LAYERS, V = VOCABULARY;

__host__ __device__ constexpr long long weight_ih_at(int layer) {
    return layer ? 4ll * H * (V + H + 1 + (layer - 1) * (2 * H + 1)) : 0;
}
__host__ __device__ constexpr long long weight_hh_at(int layer) {
    return weight_ih_at(layer) + 4ll * H * (layer ? H : V);
}
__host__ __device__ constexpr long long bias_at(int layer) { return weight_hh_at(layer) + 4ll * H * H; }
constexpr long long HEAD_WEIGHT_AT = bias_at(L - 1) + 4 * H;
constexpr long long HEAD_BIAS_AT = HEAD_WEIGHT_AT + static_cast<long long>(V) * H;
constexpr long long PARAMETERS = HEAD_BIAS_AT + V;
