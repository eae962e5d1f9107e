/* cpu/adam.hpp: the gradients' global norm, clipping, and Adam with decoupled weight decay, over flat buffers.
 *   g = gradient * min(1, clip / norm)    m = b1*m + (1-b1)*g    v = b2*v + (1-b2)*g*g
 *   p = p*decay - step_size * m / (sqrt(v)/root + epsilon)
 *   step_size = lr / (1 - b1^s)    root = sqrt(1 - b2^s)    decay = 1 - lr * weight decay    s: training steps, from 1
 * The squares are added in partial sums of NUMBERS numbers, each as `sum_of_squares` says, which are then added in their
 * order: the norm's bits do not depend on the number of threads.
 * The norm is infinite where its square is too large for `real`, since v would be, too. Where the norm is not finite,
 * nothing is changed.
 * Source: Kingma and Ba 2015; Loshchilov and Hutter 2019; Pascanu et al. 2013. Reference: cuchar/adam.py
 */
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "cpu/layout.hpp"

/* One update's numbers and arrays, in the order that cuchar/engines/cpu/library.py has them in. */
struct Update {
    long size, threads;                       // `size`: how many parameters there are
    real *parameters, *gradients, *m, *v;     // [size]
    double beta1, beta2, epsilon, step_size, root, decay;
    double clip;                              // the largest norm that is not clipped; 0 for no clipping
};

/* One partial sum: number i is added to sum i % 16, in the order of i, and these 16 are then added in their order. */
inline double sum_of_squares(const real* numbers, long count) {
    double sums[16] = {}, total = 0;
    for (long i = 0; i < count; ++i) sums[i % 16] += static_cast<double>(numbers[i]) * numbers[i];
    for (const double sum : sums) total += sum;
    return total;
}

/* Updates parameters, m and v in place, and returns the norm before clipping. */
inline double adam(const Update& update) {
    constexpr long NUMBERS = 4096;
    std::vector<double> squares((update.size + NUMBERS - 1) / NUMBERS);
    const long jobs = squares.size();
    ThreadPool::run(update.threads, jobs, [&](long job) {
        squares[job] =
            sum_of_squares(update.gradients + job * NUMBERS, std::min(NUMBERS, update.size - job * NUMBERS));
    });
    double sum = 0;
    for (const double square : squares) sum += square;
    const double norm = std::sqrt(sum > std::numeric_limits<real>::max() ? HUGE_VAL : sum);
    if (!std::isfinite(norm)) return norm;
    ThreadPool::run(update.threads, jobs, [&](long job) {
        const real scale = update.clip && norm > update.clip ? update.clip / norm : 1;
        const real beta1 = update.beta1, beta2 = update.beta2, new1 = 1 - update.beta1, new2 = 1 - update.beta2;
        const real step_size = update.step_size, root = update.root, decay = update.decay, epsilon = update.epsilon;
        real *__restrict p = update.parameters, *__restrict m = update.m, *__restrict v = update.v;
        const real* __restrict gradients = update.gradients;
        for (long i = job * NUMBERS; i < std::min(update.size, (job + 1) * NUMBERS); ++i) {
            const real g = gradients[i] * scale;
            // These stay in registers: to read them again from m and v would mean to wait for the stores.
            const real mean = m[i] * beta1 + g * new1, square = v[i] * beta2 + g * g * new2;
            m[i] = mean;
            v[i] = square;
            p[i] = p[i] * decay - step_size * mean / (std::sqrt(square) / root + epsilon);
        }
    });
    return norm;
}
