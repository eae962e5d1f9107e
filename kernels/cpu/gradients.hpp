/* cpu/gradients.hpp: the weights' gradients, sums over the N = T*B characters, from da and dlogits.
 * Sums are made in chunks of characters, in order, so that what a chunk reads stays in the cache and roundings stay few.
 */
#pragma once

#include <vector>

#include "cpu/layout.hpp"

constexpr long CHUNK = 128;  // characters

/* N characters' share in R rows of a panel of a product: sum over n of left[n, r] * right[n, column]. */
template <int R, int P>
inline void product(real* out, long K, const real* left, long left_stride, const real* right, long right_stride, long column, long N, bool add, Number<R>, Number<P>) {
    long place[P];  // the last vectors of the last panel may be beyond the row's end: they are not used
    for (int p = 0; p < P; ++p) place[p] = std::min(column + p * LANES, right_stride - LANES);
    Lanes sum[R][P] = {};
    for (long n = 0; n < N; ++n, left += left_stride, right += right_stride) {
        Lanes row[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) row[p] = load(right + place[p]);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) sum[r][p] = fused(all(left[r]), row[p], sum[r][p]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) put(out + r * K + column + p * LANES, sum[r][p], K - column - p * LANES, add);
}

/* out[m, k] = sum over n of left[n, m] * right[n, k], for m in [begin, end), k < K. */
inline void products(
    real* out, Share rows, long K, const real* left, long left_stride, const real* right, long right_stride, long N) {
    const Panels panels(K);
    with<WIDTH>(panels.width, [&](auto P) {
        for (long n = 0; n < N; n += CHUNK)
            for (long number = 0; number < panels.count; ++number)
                for_tiles<ROWS>(rows.begin, rows.end, [&](long m, auto R) {
                    product(
                        out + m * K, K, left + n * left_stride + m, left_stride, right + n * right_stride, right_stride,
                        number * panels.width * LANES, std::min(CHUNK, N - n), n > 0, R, P);
                });
    });
}

/* out[m] = sum over n of left[n, m], for m in [begin, end). */
inline void sums(real* out, Share rows, const real* left, long stride, long N) {
    constexpr long COLUMNS = 64;
    for (long m = rows.begin; m < rows.end; m += COLUMNS) {
        const long width = std::min(COLUMNS, rows.end - m);
        std::fill(out + m, out + m + width, real(0));
        for (long n0 = 0; n0 < N; n0 += CHUNK) {
            real part[COLUMNS] = {};
            for (long n = n0; n < std::min(N, n0 + CHUNK); ++n)
                for (long j = 0; j < width; ++j) part[j] += left[n * stride + m + j];
            for (long j = 0; j < width; ++j) out[m + j] += part[j];
        }
    }
}

/* Layer 0: out[m, v] = sum over the n that have character v of da[n, m], for units [begin, end) of a gate; 0 where there is none. */
inline void sums_by_character(const Task& task, const Layout& at, real* out, long gate, Share units) {
    const long N = task.T * task.B, stride = 4 * at.Hp, width = units.end - units.begin;
    std::vector<std::int32_t> place(at.V, -1), found;
    for (long n = 0; n < N; ++n)
        if (std::int32_t& slot = place[task.inputs[n]]; slot < 0) slot = found.size(), found.push_back(task.inputs[n]);
    real* const sum = task.token_sums + gate * at.Hp + units.begin;
    for (std::size_t slot = 0; slot < found.size(); ++slot) std::fill_n(sum + slot * stride, width, real(0));
    for (long n = 0; n < N; ++n) {
        const real* da = task.gates + n * stride + gate * at.Hp + units.begin;
        real* to = sum + place[task.inputs[n]] * stride;
        for (long j = 0; j < width; ++j) to[j] += da[j];
    }
    for (long j = 0; j < width; ++j) {
        real* row = out + (gate * at.H + units.begin + j) * at.V;
        std::fill_n(row, at.V, real(0));
        for (std::size_t slot = 0; slot < found.size(); ++slot) row[found[slot]] = sum[slot * stride + j];
    }
}

/* A thread's share. */
inline void gradients(const Task& task, const Layout& at, int thread) {
    const long N = task.T * task.B, H = at.H, Hp = at.Hp, rows = N + task.B;
    const Share units(H, thread, task.threads), characters(at.V, thread, task.threads);
    for (long layer = 0; layer < at.L; ++layer)
        for (long gate = 0; gate < 4; ++gate) {
            const real* da = task.gates + layer * N * 4 * Hp + gate * Hp;
            const auto into = [&](long tensor, long columns) { return task.gradients + tensor + gate * H * columns; };
            const real* h = task.h + layer * rows * Hp;
            products(into(at.recurrent(layer), H), units, H, da, 4 * Hp, h, Hp, N);
            sums(into(at.bias(layer), 1), units, da, 4 * Hp, N);
            if (layer == 0) {
                sums_by_character(task, at, task.gradients, gate, units);
            } else {
                products(into(at.inputs(layer), H), units, H, da, 4 * Hp, at.output(task, layer - 1), Hp, N);
            }
        }
    products(task.gradients + at.head(), characters, H, task.logits, at.Vp, at.output(task, at.L - 1), Hp, N);
    sums(task.gradients + at.head_bias(), characters, task.logits, at.Vp, N);
}
