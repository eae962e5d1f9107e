/* cpu/adam.hpp: global norm, clipping and Adam over flat buffers.
 *   m = b1*m + (1-b1)*g    v = b2*v + (1-b2)*g*g    p = decay*p - step_size * m / (sqrt(v)/root + eps)
 * step_size = lr / (1 - b1^step)    root = sqrt(1 - b2^step)    decay = 1 - lr * weight decay
 * The norm is a sum over blocks of numbers, in order. It is infinite where its square is too large for `real`, since v
 * would be, too. Where it is not finite, nothing is changed.
 * Source: Kingma and Ba 2015; Loshchilov and Hutter 2019; Pascanu et al. 2013. Reference: cuchar/adam.py
 */
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "cpu/layout.hpp"

struct Update {
    long size, threads;
    real *parameters, *gradients, *m, *v;
    double beta1, beta2, epsilon, step_size, root, decay, clip;  // clip: the largest norm; 0 is off
};

inline double sum_of_squares(const real* numbers, long count) {
    double parts[16] = {}, sum = 0;
    for (long i = 0; i < count; ++i) parts[i % 16] += static_cast<double>(numbers[i]) * numbers[i];
    for (const double part : parts) sum += part;
    return sum;
}

inline double adam(const Update& update) {
    constexpr long NUMBERS = 4096;
    std::vector<double> squares((update.size + NUMBERS - 1) / NUMBERS);
    double norm = 0;
    Team::run(update.threads, [&](int thread, Team& team) {
        const Share blocks(squares.size(), thread, update.threads);
        for (long block = blocks.begin; block < blocks.end; ++block)
            squares[block] = sum_of_squares(update.gradients + block * NUMBERS, std::min(NUMBERS, update.size - block * NUMBERS));
        team.meet();
        double sum = 0;
        for (const double square : squares) sum += square;
        const double found = std::sqrt(sum > std::numeric_limits<real>::max() ? HUGE_VAL : sum);
        if (thread == 0) norm = found;
        if (!std::isfinite(found)) return;
        const real scale = update.clip && found > update.clip ? update.clip / found : 1;
        const real beta1 = update.beta1, beta2 = update.beta2, new1 = 1 - update.beta1, new2 = 1 - update.beta2;
        const real step_size = update.step_size, root = update.root, decay = update.decay, epsilon = update.epsilon;
        real *__restrict p = update.parameters, *__restrict m = update.m, *__restrict v = update.v;
        const real* __restrict gradients = update.gradients;
        for (long i = blocks.begin * NUMBERS; i < std::min(update.size, blocks.end * NUMBERS); ++i) {
            const real g = gradients[i] * scale;
            const real mean = m[i] * beta1 + g * new1, square = v[i] * beta2 + g * g * new2;
            m[i] = mean, v[i] = square;  // and not read again from there, which would wait for the store
            p[i] = p[i] * decay - step_size * mean / (std::sqrt(square) / root + epsilon);
        }
    });
    return norm;
}
