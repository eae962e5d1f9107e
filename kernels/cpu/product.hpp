/* cpu/product.hpp: matrix products whose sums stay in registers, with one factor packed into panels.
 *   sum[r][p] += row_r[k] * panel[k][p]   for rows r < R, vectors p < P of columns, k = 0 .. K-1
 * A vector is LANES neighbouring columns. A panel holds P vectors for every k, as [K][P][LANES], so that the innermost
 * loop reads it from its beginning to its end. A tile is the R x P vectors of sums that are computed together: each
 * vector read from the panel serves R rows, and each number of a row serves P vectors.
 * Every sum is taken in the order of k, in partial sums of PARTIAL_TERMS terms, which are then added in their order.
 * So much of a panel fits into the first-level cache, where it stays while all tiles of some rows are multiplied with
 * it. Neither the tile nor the number of threads changes a sum's order, so neither changes a bit.
 */
#pragma once

#include <algorithm>

#include "cpu/lanes.hpp"

/* A tile's sums, the vectors read from the panel and one number of a row together fill the registers. */
constexpr int TILE_ROWS = 6;
constexpr int TILE_VECTORS = REGISTERS == 32 ? 4 : 2;
constexpr long PARTIAL_TERMS = 256;  // Partial sums also mean fewer roundings of large numbers.
constexpr long ROWS_AT_ONCE = 48;    // of a product: their sums fit into the first-level cache beside part of a panel

/* How many vectors hold so many numbers. */
constexpr long vectors(long numbers) { return (numbers + LANES - 1) / LANES; }

/* A matrix of `columns` is cut into `count` panels of `width` vectors. The last one may reach beyond the matrix. */
struct Panels {
    long count, width;

    explicit Panels(long columns)
        : count((vectors(columns) + TILE_VECTORS - 1) / TILE_VECTORS), width((vectors(columns) + count - 1) / count) {}

    /* The numbers in all the panels of a matrix [K, columns]. */
    long size(long K) const { return count * K * width * LANES; }
};

/* A number that is part of a type, so that the compiler can unroll a loop over it. */
template <int N>
using Number = std::integral_constant<int, N>;

/* Calls call(Number<n>{}) for an n from 1 to MOST that only the running program knows. */
template <int MOST, class Call>
inline void with(long n, Call call) {
    if constexpr (MOST > 1)
        if (n < MOST) return with<MOST - 1>(n, call);
    call(Number<MOST>{});
}

/* Cuts the rows [begin, end) into as few tiles as possible, of at most MOST rows and as equal as they can be, and calls
 * call(first row, Number<rows of the tile>{}) for each.
 */
template <int MOST, class Call>
inline void for_tiles(long begin, long end, Call call) {
    const long rows = end - begin, tiles = (rows + MOST - 1) / MOST;
    for (long tile = 0; tile < tiles; ++tile) {
        const long first = begin + rows * tile / tiles, next = begin + rows * (tile + 1) / tiles;
        with<MOST>(next - first, [&](auto R) { call(first, R); });
    }
}

/* Adds the product in this file's header to a tile, term after term. Row r begins r * stride numbers after `rows`. */
template <int R, int P>
inline __attribute__((always_inline)) void multiply_tile(
    Lanes (&sum)[R][P], const real* rows, long stride, const real* panel, long K) {
    for (long k = 0; k < K; ++k, panel += P * LANES) {
        Lanes weights[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) weights[p] = load(panel + p * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) sum[r][p] = fused(all(rows[r * stride + k]), weights[p], sum[r][p]);
    }
}

/* Stores a tile at `to`, whose rows begin `stride` numbers apart, or, with `add`, adds it to what is there. Of each row
 * only the first `valid` numbers are stored, or all of them where `valid` is more.
 */
template <int R, int P>
inline __attribute__((always_inline)) void put_tile(
    real* to, long stride, const Lanes (&sum)[R][P], long valid, bool add) {
    if (valid >= P * LANES) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) {
                real* const place = to + r * stride + p * LANES;
                store(place, add ? load(place) + sum[r][p] : sum[r][p]);
            }
        return;
    }
    real row[P * LANES];
    for (int r = 0; r < R; ++r, to += stride) {
        for (int p = 0; p < P; ++p) store(row + p * LANES, sum[r][p]);
        for (long k = 0; k < valid; ++k) to[k] = add ? to[k] + row[k] : row[k];
    }
}

/* Adds to `sums` the product of `count` rows, each of which begins `stride` numbers after the one before, with a panel of
 * P vectors. The rows of `sums` are `sums_stride` numbers apart.
 */
template <int P>
inline void multiply(
    real* sums, long sums_stride, const real* rows, long stride, long count, const real* panel, long K) {
    for (long k = 0; k < K; k += PARTIAL_TERMS)
        for_tiles<TILE_ROWS>(0, count, [&](long row, auto R) {
            Lanes partial[R()][P] = {};
            multiply_tile(
                partial, rows + row * stride + k, stride, panel + k * P * LANES, std::min(PARTIAL_TERMS, K - k));
            put_tile(sums + row * sums_stride, sums_stride, partial, P * LANES, /*add=*/true);
        });
}

/* Packs one panel, [K][width][LANES], whose columns are rows of a matrix. column(p, lane) says which: it returns where
 * that row's K numbers are and what they are multiplied by, or nullptr for a column of zeros.
 */
template <class Column>
inline void pack_transposed(real* panel, long K, long width, Column column) {
    for (long p = 0; p < width; ++p)
        for (int lane = 0; lane < LANES; ++lane) {
            const auto [from, scale] = column(p, lane);
            real* to = panel + p * LANES + lane;
            for (long k = 0; k < K; ++k) to[k * width * LANES] = from ? from[k] * scale : 0;
        }
}

/* Packs panel `panel_index` of a row-major matrix [K, columns]. Columns beyond the matrix are zeros. */
inline void pack(real* panel, const real* from, long K, long columns, Panels panels, long panel_index) {
    const long first = panel_index * panels.width * LANES, size = panels.width * LANES;
    const long found = std::min(size, columns - first);
    for (long k = 0; k < K; ++k, panel += size) {
        std::copy_n(from + k * columns + first, found, panel);
        std::fill(panel + found, panel + size, real(0));
    }
}
