// CUDA's language, as far as the kernels use it, for the host's C++ compiler. One-dimensional grids and blocks.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "runtime.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(bytes) alignas(bytes)

#define threadIdx (emulator::self->thread)
#define blockIdx (emulator::self->block)
#define blockDim (emulator::self->block_dim)
#define gridDim (emulator::self->grid_dim)

using emulator::Where;  // a default argument of what may fail: the line of the call

// ---- Vectors ----

#define EMULATE_VECTORS(type, name)                                              \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                     \
    struct alignas(16) name##4 { type x, y, z, w; };                             \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }             \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATE_VECTORS(float, float)
EMULATE_VECTORS(double, double)
EMULATE_VECTORS(int, int)
EMULATE_VECTORS(unsigned, uint)

// ---- Arithmetic ----

using std::abs, std::exp, std::expm1, std::fabs, std::fma, std::isfinite, std::isinf, std::isnan, std::log,
    std::log1p, std::sqrt, std::tanh;

template <class T>
T min(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
    else return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
    else return a < b ? b : a;
}

inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<uint64_t>(a) * b >> 32; }
inline int __popc(unsigned a) { return std::popcount(a); }
inline int __ffs(unsigned a) { return a ? std::countr_zero(a) + 1 : 0; }
inline int __clz(unsigned a) { return std::countl_zero(a); }
inline unsigned __float_as_uint(float a) { return std::bit_cast<unsigned>(a); }
inline float __uint_as_float(unsigned a) { return std::bit_cast<float>(a); }
inline int __float_as_int(float a) { return std::bit_cast<int>(a); }
inline float __int_as_float(int a) { return std::bit_cast<float>(a); }
inline long long __double_as_longlong(double a) { return std::bit_cast<long long>(a); }
inline double __longlong_as_double(long long a) { return std::bit_cast<double>(a); }
template <class T>
T __ldg(const T* address) { return *address; }
inline long long clock64() { return emulator::nanoseconds(); }

// ---- Barriers, shuffles, votes ----

[[noreturn]] inline void __trap(Where where = Where::current()) { emulator::fail("__trap", where); }

inline void __syncthreads(Where where = Where::current()) {
    emulator::barrier(false, "__syncthreads", where);
}
inline int __syncthreads_count(int vote, Where where = Where::current()) {
    return emulator::barrier(vote, "__syncthreads_count", where);
}
inline int __syncthreads_or(int vote, Where where = Where::current()) {
    return emulator::barrier(vote, "__syncthreads_or", where) != 0;
}
inline int __syncthreads_and(int vote, Where where = Where::current()) {
    return emulator::barrier(vote, "__syncthreads_and", where) == blockDim.x;
}

inline void __syncwarp(unsigned mask = ~0u, Where where = Where::current()) {
    emulator::warp_barrier(mask, where);
}
inline unsigned __ballot_sync(unsigned mask, int vote, Where where = Where::current()) {
    return emulator::ballot(mask, vote, where);
}
inline int __any_sync(unsigned mask, int vote, Where where = Where::current()) {
    return emulator::ballot(mask, vote, where) != 0;
}
inline int __all_sync(unsigned mask, int vote, Where where = Where::current()) {
    return emulator::ballot(mask, !vote, where) == 0;
}

namespace emulator {
// Lane `source` of this lane's segment of `width` lanes; outside of the segment, this lane itself.
template <class T>
T exchange(unsigned mask, T value, int source, int width, const Where& where) {
    using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
    const int lane = self->thread.x % 32, first = lane - lane % width;
    if (source < first || source >= first + width) source = lane;
    return std::bit_cast<T>(static_cast<Bits>(shuffle(mask, std::bit_cast<Bits>(value), source, where)));
}
}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, Where where = Where::current()) {
    const int lane = threadIdx.x % 32;
    return emulator::exchange(mask, value, lane - lane % width + (source & (width - 1)), width, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, Where where = Where::current()) {
    return emulator::exchange(mask, value, static_cast<int>(threadIdx.x % 32) ^ bits, width, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, Where where = Where::current()) {
    return emulator::exchange(mask, value, static_cast<int>(threadIdx.x % 32) - by, width, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, Where where = Where::current()) {
    return emulator::exchange(mask, value, static_cast<int>(threadIdx.x % 32) + by, width, where);
}

// What Python appends for each kernel of a file: a name, which a device function may have too, and the parameters.
#define EMULATE(name, ...)                                                      \
    extern "C" bool launch_##name(const emulator::Launch* launch) {             \
        return emulator::launch(static_cast<void (*)(__VA_ARGS__)>(name), *launch); \
    }
