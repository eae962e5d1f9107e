/* cpu/product.hpp: matrix products in registers, from packed panels.
 *   sum[r][p] += row_r[k] * panel[k][p]   for rows r < R, vectors p < P of columns, k = 0, 1, ...
 * A panel is what all k have of P vectors of columns, [K][P][LANES], so that it is read from its beginning to its end.
 * Every number is a sum over k in order, in parts of BLOCK, whatever R, P and the number of threads are.
 */
#pragma once

#include <algorithm>

#include "cpu/lanes.hpp"

constexpr int ROWS = 6;                            // of a tile: with WIDTH vectors each, and WIDTH of a panel,
constexpr int WIDTH = REGISTERS == 32 ? 4 : 2;     // they fill the registers
constexpr int GATE_ROWS = REGISTERS == 32 ? 6 : 3; // where a tile has the four gates of one vector of units
constexpr long BLOCK = 256;                        // of a long sum: fewer roundings of large numbers

constexpr long vectors(long numbers) { return (numbers + LANES - 1) / LANES; }

/* A matrix of `columns` cut into panels of equal width. */
struct Panels {
    long count, width;  // width: vectors, P

    explicit Panels(long columns)
        : count((vectors(columns) + WIDTH - 1) / WIDTH), width((vectors(columns) + count - 1) / count) {}

    long size(long K) const { return count * K * width * LANES; }
};

template <int N>
using Number = std::integral_constant<int, N>;

/* call(Number<n>), for 1 <= n <= MOST. */
template <int MOST, class Call>
inline void with(long n, Call call) {
    if constexpr (MOST > 1)
        if (n < MOST) return with<MOST - 1>(n, call);
    call(Number<MOST>{});
}

/* call(first, Number<R>) for tiles of at most MOST rows that share [begin, end) evenly. */
template <int MOST, class Call>
inline void for_tiles(long begin, long end, Call call) {
    const long rows = end - begin, tiles = (rows + MOST - 1) / MOST;
    for (long tile = 0; tile < tiles; ++tile) {
        const long first = begin + rows * tile / tiles, next = begin + rows * (tile + 1) / tiles;
        with<MOST>(next - first, [&](auto R) { call(first, R); });
    }
}

template <int R, int P>
inline __attribute__((always_inline)) void multiply(
    Lanes (&sum)[R][P], const real* rows, long stride, const real* panel, long K) {
    for (long first = 0; first < K; first += BLOCK) {
        Lanes part[R][P] = {};
        for (long k = first; k < std::min(K, first + BLOCK); ++k, panel += P * LANES) {
            Lanes weights[P];
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) weights[p] = load(panel + p * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                for (int p = 0; p < P; ++p) part[r][p] = fused(all(rows[r * stride + k]), weights[p], part[r][p]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) sum[r][p] += part[r][p];
    }
}

/* Panels of a matrix whose rows are the columns here: panel[k][p][lane] = value(row, k), row = the number of the column. */
template <class Row>
inline void pack_transposed(real* panel, long K, long width, Row row) {
    for (long p = 0; p < width; ++p)
        for (int lane = 0; lane < LANES; ++lane) {
            const auto [from, scale] = row(p, lane);  // nullptr: zeros
            real* to = panel + p * LANES + lane;
            for (long k = 0; k < K; ++k) to[k * width * LANES] = from ? from[k] * scale : 0;
        }
}

/* Panel `number` of a matrix [K, columns], row-major. */
inline void pack(real* panel, const real* from, long K, long columns, Panels panels, long number) {
    const long first = number * panels.width * LANES, width = panels.width * LANES;
    const long found = std::min(width, columns - first);
    for (long k = 0; k < K; ++k, panel += width) {
        std::copy_n(from + k * columns + first, found, panel);
        std::fill(panel + found, panel + width, real(0));
    }
}
