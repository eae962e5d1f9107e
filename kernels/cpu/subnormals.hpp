/* cpu/subnormals.hpp: in a thread that has a FlushSubnormals, numbers below the smallest normal one (10^-38 for float)
 * are 0, as operands and as results.
 * Processors compute with them many times more slowly, and a moment of Adam that decays would never get out of them:
 * 0.9 * x, rounded to a multiple of the smallest subnormal number, is x itself where x is four of those or fewer.
 * Kernels for float32 do the same, by CuPy's option -ftz=true. On other processors than these two nothing is flushed.
 * A result that only rounding lifts to the smallest normal number is that number on x86-64 and 0 on Arm, where a result
 * is judged before it is rounded.
 * Source: Intel 64 and IA-32 Architectures Software Developer's Manual 1, sections 11.5.2.1 and 10.2.3.3 (FTZ and DAZ,
 * MXCSR's bits 15 and 6); Arm Architecture Reference Manual, FPCR.FZ (bit 24).
 */
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <cstdint>

class FlushSubnormals {
   public:
    FlushSubnormals() : before(control()) { set(before | FLUSH); }
    ~FlushSubnormals() { set(before); }
    FlushSubnormals(const FlushSubnormals&) = delete;
    FlushSubnormals& operator=(const FlushSubnormals&) = delete;

   private:
#if defined(__x86_64__)
    static constexpr std::uint64_t FLUSH = 1 << 15 | 1 << 6;
    static std::uint64_t control() { return _mm_getcsr(); }
    static void set(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
    static constexpr std::uint64_t FLUSH = 1 << 24;
    static std::uint64_t control() {
        std::uint64_t value;
        asm volatile("mrs %0, fpcr" : "=r"(value));
        return value;
    }
    static void set(std::uint64_t value) { asm volatile("msr fpcr, %0" ::"r"(value) : "memory"); }
#else
    static constexpr std::uint64_t FLUSH = 0;
    static std::uint64_t control() { return 0; }
    static void set(std::uint64_t) {}
#endif

    const std::uint64_t before;
};
