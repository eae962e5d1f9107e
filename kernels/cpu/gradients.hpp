/* cpu/gradients.hpp: the parameters' gradients, which are sums over the N = T*B characters of a window.
 *   dW_hh = sum of da[n] h[n]^T    dW_ih = sum of da[n] x[n]^T    db = sum of da[n]
 *   head: dW = sum of dlogits[n] y[n]^T    db = sum of dlogits[n]
 * n = t*B + b numbers the characters. h[n] enters the time step, x[n] is the output of the layer below, y[n] that of
 * the last layer. Layer 0 has characters for x: column v of its dW_ih is the sum of da[n] over the n with character v.
 * Sums are taken in the order of n, in partial sums of PARTIAL_CHARACTERS characters, which are then added in their
 * order: what a partial sum reads stays in the cache, and roundings stay few. Only layer 0's dW_ih is one sum in the
 * order of n. One job makes the whole of a sum, so neither the tile nor the number of threads changes a bit.
 */
#pragma once

#include <vector>

#include "cpu/layout.hpp"

constexpr long PARTIAL_CHARACTERS = 128, ROWS_OF_LEFT = 512 / sizeof(real);

constexpr long LINE = 64 / sizeof(real);  // numbers in a cache line

/* At least so many numbers, which fill an odd number of cache lines: rows of that length fill a cache evenly. */
constexpr long odd_lines(long numbers) { return ((numbers + LINE - 1) / LINE | 1) * LINE; }

/* R rows and one panel of the product of `outer_products`: the partial sum of N characters, which is stored in `out`
 * or, with `add`, added to it. `left` and `right` point to the first character's rows, `out` to the first of the R
 * rows, in the panel's first column.
 */
template <int R, int P>
inline void outer_products_tile(
    real* out, long K, const real* left, long left_stride, const real* right, long right_stride, long column, long N,
    bool add, Number<R>, Number<P>) {
    // The last vectors of the last panel may lie beyond the row's end. They read another vector and are not stored.
    long columns[P];
    for (int p = 0; p < P; ++p) columns[p] = std::min(column + p * LANES, right_stride - LANES);
    Lanes sum[R][P] = {};
    for (long n = 0; n < N; ++n, left += left_stride, right += right_stride) {
        Lanes row[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) row[p] = load(right + columns[p]);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) sum[r][p] = fused(all(left[r]), row[p], sum[r][p]);
    }
    put_tile(out, K, sum, K - column, add);
}

/* Asks for some numbers to be fetched from memory into the second-level cache, since they will be read soon. */
inline void fetch(const real* from, long count) {
    for (long i = 0; i < count; i += LINE) __builtin_prefetch(from + i, /*for writing=*/0, /*second level=*/2);
}

/* out[m, k] = sum over n of left[n, m] * right[n, k], for some rows m, ROWS_OF_LEFT at most, and all k < K.
 * A row of `left` is a few numbers of each of many places that are far apart, in a model with many units even by a power
 * of 2, of which a cache keeps few at once. So what a partial sum reads of it is copied together first. What the next
 * partial sum will read is fetched meanwhile, a little after each tile.
 */
inline void outer_products(
    real* out, Share rows, long K, const real* left, long left_stride, const real* right, long right_stride, long N) {
    const Panels panels(K);
    const long count = rows.end - rows.begin, step = odd_lines(count);
    real copied[PARTIAL_CHARACTERS * odd_lines(ROWS_OF_LEFT)];
    left += rows.begin;
    with<TILE_VECTORS>(panels.width, [&](auto P) {
        for (long n = 0; n < N; n += PARTIAL_CHARACTERS) {
            const long end = std::min(N, n + PARTIAL_CHARACTERS), next_end = std::min(N, end + PARTIAL_CHARACTERS);
            for (long i = n; i < end; ++i) std::copy_n(left + i * left_stride, count, copied + (i - n) * step);
            long fetched = end;
            for (long panel_index = 0; panel_index < panels.count; ++panel_index) {
                const long column = panel_index * panels.width * LANES;
                for_tiles<TILE_ROWS>(0, count, [&](long m, auto R) {
                    outer_products_tile(
                        out + (rows.begin + m) * K + column, K, copied + m, step, right + n * right_stride,
                        right_stride, column, end - n, n > 0, R, P);
                    const long done = panel_index * count + m + R;  // of panels.count * count
                    for (; (fetched - end) * panels.count * count < done * (next_end - end); ++fetched) {
                        fetch(left + fetched * left_stride, count);
                        fetch(right + fetched * right_stride, K);
                    }
                });
            }
        }
    });
}

/* out[m] = sum over n of left[n, m], for one job's m. */
inline void column_sums(real* out, Share columns, const real* left, long stride, long N) {
    constexpr long MOST = 64;  // columns at a time
    for (long m = columns.begin; m < columns.end; m += MOST) {
        const long count = std::min(MOST, columns.end - m);
        std::fill(out + m, out + m + count, real(0));
        for (long first = 0; first < N; first += PARTIAL_CHARACTERS) {
            real partial[MOST] = {};
            for (long n = first; n < std::min(N, first + PARTIAL_CHARACTERS); ++n)
                for (long j = 0; j < count; ++j) partial[j] += left[n * stride + m + j];
            for (long j = 0; j < count; ++j) out[m + j] += partial[j];
        }
    }
}

/* Layer 0's dW_ih: out[m, v] = sum of da[n, m] over the n whose character is v, or 0 where there is none, for some
 * units m of a gate. The sums are first made in task.token_sums, a row for each character that the window has.
 */
inline void sums_by_character(const Task& task, const Layout& layout, real* out, long gate, Share units) {
    const long N = task.T * task.B, stride = 4 * layout.Hp, count = units.end - units.begin;
    std::vector<std::int32_t> row_of(layout.V, -1), found;  // a character's row, and the row's character
    for (long n = 0; n < N; ++n) {
        std::int32_t& row = row_of[task.inputs[n]];
        if (row < 0) {
            row = found.size();
            found.push_back(task.inputs[n]);
        }
    }
    real* const sum = task.token_sums + gate * layout.Hp + units.begin;
    for (std::size_t row = 0; row < found.size(); ++row) std::fill_n(sum + row * stride, count, real(0));
    for (long n = 0; n < N; ++n) {
        const real* da = task.gates + n * stride + gate * layout.Hp + units.begin;
        real* to = sum + row_of[task.inputs[n]] * stride;
        for (long j = 0; j < count; ++j) to[j] += da[j];
    }
    for (long j = 0; j < count; ++j) {
        real* of_unit = out + (gate * layout.H + units.begin + j) * layout.V;
        std::fill_n(of_unit, layout.V, real(0));
        for (std::size_t row = 0; row < found.size(); ++row) of_unit[found[row]] = sum[row * stride + j];
    }
}

/* How the gradients are cut into jobs: each has some rows of one gate of one layer, or of the head. Layer 0, which takes
 * less time than those above it, comes last of the layers, and the head after it: so the last jobs are short.
 */
struct GradientJobs {
    long of_gate, of_head, of_layers;

    GradientJobs(const Task& task, const Layout& layout)
        : of_gate(pieces(layout.H, task.threads / (4 * layout.L))), of_head(pieces(layout.V, 1)),
          of_layers(layout.L * 4 * of_gate) {}

    /* Into how many pieces so many rows are cut, if they can be cut into `wanted` pieces. */
    static long pieces(long rows, long wanted) {
        return std::max((rows + ROWS_OF_LEFT - 1) / ROWS_OF_LEFT, std::min(wanted, (rows + TILE_ROWS - 1) / TILE_ROWS));
    }

    long count() const { return of_layers + of_head; }
};

/* The gradients of one job. */
inline void gradient_job(const Task& task, const Layout& layout, long job) {
    const GradientJobs jobs(task, layout);
    const long N = task.T * task.B, H = layout.H, Hp = layout.Hp, states = N + task.B;
    if (job >= jobs.of_layers) {
        const Share vocabulary(layout.V, job - jobs.of_layers, jobs.of_head);
        outer_products(
            task.gradients + layout.head(), vocabulary, H, task.logits, layout.Vp, layout.output(task, layout.L - 1),
            Hp, N);
        return column_sums(task.gradients + layout.head_bias(), vocabulary, task.logits, layout.Vp, N);
    }
    const long layer = layout.L - 1 - job / (4 * jobs.of_gate), gate = job / jobs.of_gate % 4;
    const Share units(H, job % jobs.of_gate, jobs.of_gate);
    const real* da = task.gates + layer * N * 4 * Hp + gate * Hp;
    const auto of_gate = [&](long tensor, long columns) { return task.gradients + tensor + gate * H * columns; };
    const real* h = task.h + layer * states * Hp;
    outer_products(of_gate(layout.recurrent(layer), H), units, H, da, 4 * Hp, h, Hp, N);
    column_sums(of_gate(layout.bias(layer), 1), units, da, 4 * Hp, N);
    if (layer == 0) {
        sums_by_character(task, layout, task.gradients, gate, units);
    } else {
        outer_products(
            of_gate(layout.inputs(layer), H), units, H, da, 4 * Hp, layout.output(task, layer - 1), Hp, N);
    }
}
