// Tensor cores: the formats of their operands, and the product of what the 32 lanes of a warp hold.
// Compiled with the runtime, so that no sanitizer takes one lane's look at another's registers for the kernel's.
#pragma once

#include <bit>
#include <cmath>

#include "runtime.hpp"

namespace emulator {

uint32_t rounded(Format format, float number) {
    const uint32_t bits = std::bit_cast<uint32_t>(number), sign = bits >> 31;
    if (format == Format::tf32)  // 10 bits of fraction, ties away from zero
        return std::isnan(number) ? 0x7fffffff : (bits + 0x1000) & ~0x1fffu;
    if (std::isnan(number)) return 0x7fff;
    if (format == Format::bf16)  // 7 bits of fraction, ties to even
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    // 10 bits of fraction, 5 of exponent, ties to even
    const float size = std::fabs(number);
    if (size >= 65520) return sign << 15 | 0x7c00;
    if (size < 0x1p-14f) return sign << 15 | static_cast<uint32_t>(std::nearbyint(size * 0x1p24f));  // subnormal
    return sign << 15 | (((bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10);
}

namespace {

float number_of(Format format, uint32_t bits) {
    if (format == Format::tf32) return std::bit_cast<float>(bits & ~0x1fffu);  // the hardware reads no more
    if (format == Format::bf16) return std::bit_cast<float>(bits << 16);
    const uint32_t sign = bits >> 15 << 31, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
    const float size = exponent == 0    ? fraction * 0x1p-24f
                       : exponent == 31 ? std::bit_cast<float>(0x7f800000 | fraction << 13)
                                        : std::bit_cast<float>((exponent + 112) << 23 | fraction << 13);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign);
}

// What a lane brings.
struct Fragments {
    Format format;
    float* d;
    const uint32_t *a, *b;
};

// D [16,8] += A [16,8 words] * B [8 words,8], the lanes' parts as in kernels/hardware.cuh. Products are exact, and added
// in the order of k, in float; the hardware's own order and rounding are not specified.
void multiply(const Fragments* const* lanes) {
    const Format format = lanes[0]->format;
    const int numbers = format == Format::tf32 ? 1 : 2;  // of a word
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, member = lane % 4;
        for (int i = 0; i < 4; ++i)
            d[group + i / 2 * 8][2 * member + i % 2] = lanes[lane]->d[i];
        for (int number = 0; number < numbers; ++number) {
            auto of = [&](uint32_t word) { return number_of(format, numbers == 1 ? word : word >> 16 * number & 0xffff); };
            for (int i = 0; i < 4; ++i)
                a[group + i % 2 * 8][(member + i / 2 * 4) * numbers + number] = of(lanes[lane]->a[i]);
            for (int i = 0; i < 2; ++i) b[(member + i * 4) * numbers + number][group] = of(lanes[lane]->b[i]);
        }
    }
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < 8 * numbers; ++k)
            for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) lanes[lane]->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

}  // namespace
}  // namespace emulator
