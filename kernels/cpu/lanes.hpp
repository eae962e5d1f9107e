/* cpu/lanes.hpp: `Lanes`, the numbers of one vector register of the processor, with a*b + c, exp and tanh of each.
 *   e^x = 2^k * (1 + f),  k = round(x / ln 2),  f = e^r - 1 by Taylor's series of r = x - k ln 2, |r| <= ln 2 / 2
 *   tanh(x) = m / (m + 2),  m = e^2x - 1 = 2^k f + (2^k - 1), which loses no digits near 0
 * The macro REAL, float or double, is the type of all the engine's numbers; a register holds LANES of them. What is
 * computed in a lane depends on that lane's numbers alone, so a result has the same bits however many lanes there are.
 * exp and tanh of NaN are NaN, so that a run that diverges is seen to.
 * The engine is compiled with -ffp-contract=off: where a product and a sum are rounded once, the source says `fused`,
 * and everywhere else each of them is rounded. Left to the compiler, the choice would differ from one template instance
 * to the next, and so would a number's bits with the tile that it happens to be computed in.
 */
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef REAL
#define REAL float
#endif
using real = REAL;

/* The bytes of a vector register and how many such registers there are, with the name that users are told. */
#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64, REGISTERS = 32;
constexpr char INSTRUCTIONS[] = "AVX-512";
#elif defined(__AVX__)
constexpr int REGISTER_BYTES = 32, REGISTERS = 16;
constexpr char INSTRUCTIONS[] = "AVX";
#elif defined(__aarch64__)
constexpr int REGISTER_BYTES = 16, REGISTERS = 32;
constexpr char INSTRUCTIONS[] = "NEON";
#else
constexpr int REGISTER_BYTES = 16, REGISTERS = 16;
constexpr char INSTRUCTIONS[] = "vectors of 16 bytes";
#endif
constexpr int LANES = REGISTER_BYTES / sizeof(real);

typedef real Lanes __attribute__((vector_size(REGISTER_BYTES)));
typedef double Doubles __attribute__((vector_size(REGISTER_BYTES)));
template <class Vector>
using Element = std::decay_t<decltype(Vector{}[0])>;  // what a lane has

inline Lanes load(const real* from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

inline void store(real* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

/* x in every lane. It is written x - 0, since 0 + x would make 0 of -0. */
template <class Vector = Lanes>
inline Vector all(Element<Vector> x) {
    return x - Vector{};
}

/* a*b + c, rounded once where the processor can do that. Elsewhere the product is rounded and then the sum. */
#if defined(__AVX512F__)
inline __m512 fused(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
inline __m512d fused(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__FMA__)
inline __m256 fused(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
inline __m256d fused(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__aarch64__)
inline float32x4_t fused(float32x4_t a, float32x4_t b, float32x4_t c) { return vfmaq_f32(c, a, b); }
inline float64x2_t fused(float64x2_t a, float64x2_t b, float64x2_t c) { return vfmaq_f64(c, a, b); }
#else
template <class Vector>
inline Vector fused(Vector a, Vector b, Vector c) {
    return a * b + c;
}
#endif

/* x, but at least `low` and at most `high`; NaN, for which both comparisons are false, stays NaN. */
template <class Vector>
inline Vector clamp(Vector x, Element<Vector> low, Element<Vector> high) {
    x = x < low ? all<Vector>(low) : x;
    return x > high ? all<Vector>(high) : x;
}

/* e^x = scale * (1 + fraction), where `scale` is a power of 2. */
template <class Vector>
struct Power {
    Vector scale, fraction;
};

/* e^x for |x| up to 87.33 (float) or 708.39 (double), where 2^k is neither infinite nor subnormal. */
template <class Vector>
inline Power<Vector> power(Vector x) {
    using Number = Element<Vector>;
    constexpr bool SINGLE = sizeof(Number) == 4;
    using Whole = std::conditional_t<SINGLE, std::uint32_t, std::uint64_t>;  // as wide as a number, for work on its bits
    typedef Whole Wholes __attribute__((vector_size(REGISTER_BYTES)));
    constexpr Number LOG2_E = 1.4426950408889634;
    // HIGH + LOW = ln 2. HIGH has so few bits that k * HIGH is exact.
    constexpr Number HIGH = SINGLE ? 0.693359375 : 6.93147180369123816490e-1;
    constexpr Number LOW = SINGLE ? -2.12194440054690583e-4 : 1.90821492927058770002e-10;
    constexpr int FRACTION_BITS = SINGLE ? 23 : 52, BIAS = SINGLE ? 127 : 1023;
    // 1.5 * 2^FRACTION_BITS. Added to a number, it rounds that to a whole one, which is then in the sum's lowest bits.
    constexpr Number ROUND = SINGLE ? 12582912.0 : 6755399441055744.0;
    constexpr int TERMS = SINGLE ? 7 : 13;  // of Taylor's series: r + r^2/2! + ... + r^TERMS/TERMS!
    const Vector rounded = fused(x, all<Vector>(LOG2_E), all<Vector>(ROUND));
    const Vector k = rounded - ROUND;
    const Vector r = fused(k, all<Vector>(-LOW), fused(k, all<Vector>(-HIGH), x));
    Power<Vector> result;
    Wholes bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    bits = (bits + BIAS) << FRACTION_BITS;  // k + BIAS as the exponent of a number with fraction 0: 2^k
    std::memcpy(&result.scale, &bits, sizeof bits);
    double factorial = 1;
    for (int n = 2; n <= TERMS; ++n) factorial *= n;
    Vector series = all<Vector>(1 / factorial);
#pragma GCC unroll 16
    for (int n = TERMS - 1; n >= 2; --n) {
        factorial /= n + 1;
        series = fused(series, r, all<Vector>(1 / factorial));
    }
    result.fraction = fused(series, Vector(r * r), r);
    return result;
}

/* e^(x + low) for x <= 0, where `low` is what rounding has taken from x. A result below the smallest normal number is
 * 0.
 */
template <class Vector>
inline Vector exp_of_negative(Vector x, Vector low) {
    constexpr Element<Vector> LEAST = sizeof(LEAST) == 4 ? -87.336544 : -708.3964;  // its exp is the smallest normal number
    const Power<Vector> e = power(clamp(x, LEAST, 0));
    const Vector fraction = e.fraction + fused(low, e.fraction, low), result = fused(e.scale, fraction, e.scale);
    return x < LEAST ? Vector{} : result;
}

inline Lanes tanh(Lanes x) {
    constexpr real BOUND = sizeof(real) == 4 ? 10 : 20;  // its tanh is 1 to the last bit
    const Power<Lanes> e = power<Lanes>(2 * clamp(x, -BOUND, BOUND));
    const Lanes m = fused(e.scale, e.fraction, e.scale - 1);
    return m / (m + 2);
}
