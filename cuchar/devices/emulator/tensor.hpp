// Tensor cores: the formats of their operands, and the product of what the 32 lanes of a warp hold.
//   D [16,8] += A [16,K] * B [K,8]   K = 8 in tf32, 16 in bf16 and fp16
// A product of two operands is exact in float. Products are added in the order of k, in float; the hardware's own order
// and rounding are not specified.
// Compiled with the runtime, so that no sanitizer takes one lane's look at another's registers for the kernel's.
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k8", "... for mma.m16n8k16", "cvt".
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
    // fp16: 10 bits of fraction, 5 of exponent, ties to even
    const float size = std::fabs(number);
    if (size >= 65520) return sign << 15 | 0x7c00;
    if (size < 0x1p-14f) return sign << 15 | static_cast<uint32_t>(std::nearbyint(size * 0x1p24f));  // subnormal
    return sign << 15 | (((bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10);
}

namespace {

// The number that has these bits in a format: the inverse of `rounded`.
float number_of(Format format, uint32_t bits) {
    if (format == Format::tf32) return std::bit_cast<float>(bits & ~0x1fffu);  // the hardware reads no more
    if (format == Format::bf16) return std::bit_cast<float>(bits << 16);
    const uint32_t sign = bits >> 15 << 31, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
    const float size = exponent == 0    ? fraction * 0x1p-24f
                       : exponent == 31 ? std::bit_cast<float>(0x7f800000 | fraction << 13)
                                        : std::bit_cast<float>((exponent + 112) << 23 | fraction << 13);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign);
}

// What a lane brings to an mma: where its words of A [4] and B [2] and its numbers of D [4] are.
struct Fragments {
    Format format;
    float* d;
    const uint32_t *a, *b;
};

// The product of a warp's 32 fragments. A word of A or B is one tf32 number, or two 16-bit numbers that follow each
// other in k, the first in the low half. Lane 4*r + c has
//   A's words (row, word of k)      (r, c) (r+8, c) (r, c+4) (r+8, c+4)
//   B's words (word of k, column)   (c, r) (c+4, r)
//   D's numbers (row, column)       (r, 2c) (r, 2c+1) (r+8, 2c) (r+8, 2c+1)
void multiply(const Fragments* const* lanes) {
    const Format format = lanes[0]->format;
    const int per_word = format == Format::tf32 ? 1 : 2;  // numbers
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const int r = lane / 4, c = lane % 4;
        for (int i = 0; i < 4; ++i) d[r + i / 2 * 8][2 * c + i % 2] = lanes[lane]->d[i];
        for (int number = 0; number < per_word; ++number) {
            auto of = [&](uint32_t word) {
                return number_of(format, per_word == 1 ? word : word >> 16 * number & 0xffff);
            };
            for (int i = 0; i < 4; ++i) a[r + i % 2 * 8][(c + i / 2 * 4) * per_word + number] = of(lanes[lane]->a[i]);
            for (int i = 0; i < 2; ++i) b[(c + i * 4) * per_word + number][r] = of(lanes[lane]->b[i]);
        }
    }
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < 8 * per_word; ++k)
            for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) lanes[lane]->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

}  // namespace
}  // namespace emulator
