/* adam.cu: one Adam step over the flat buffer, with clipping by the global norm and decoupled weight decay.
 *   g = gradient * min(1, clip / norm)    m = b1*m + (1-b1)*g    v = b2*v + (1-b2)*g^2
 *   p = p*decay - step_size * m / (sqrt(v)/root + epsilon)       (decay, step_size, root: struct Step)
 * parameters, m, v [P] in, out; gradients [P] in
 * squares [square_count] in: gradient_norm.cu's; the norm is the root of their sum
 * mean_losses in, norms out: a number for each training step of the chunk
 * steps in; progress: now in, next out; scaling in, out, if SCALED, else null
 * clip: the largest norm, 0 for no clipping
 * Where the loss or the norm is not finite, now or at an earlier training step, nothing changes any more. But if
 * SCALED, a norm that is not finite only halves the loss scaling, as long as that is above 1: the training step is
 * passed over and its norm said to be 0. The scaling is doubled after GROWTH training steps without that.
 * One thread an element; every block adds up the squares for itself, in the same order: a thread's own, then block_sum.
 * The last kernel of a training step: writes progress->next.
 * Source: Kingma and Ba 2015; Loshchilov and Hutter 2019; Pascanu et al. 2013; Micikevicius et al. 2018.
 * Reference: cuchar/adam.py
 */
#include "common/block_sum.cuh"
#include "common/step.cuh"

constexpr double BETA1 = 0.9, BETA2 = 0.999, EPSILON = 1e-8;
constexpr int GROWTH = 2000;
constexpr float MOST_SCALE = 16777216;  // gradients that are all zero would have it grow for ever

extern "C" __global__ void __launch_bounds__(256) adam(
    real* parameters, const real* gradients, real* m, real* v, const double* squares, int square_count,
    const double* mean_losses, double* norms, const Step* steps, Progress* progress, Scaling* scaling, double clip,
    long long P) {
    SHARED(double, scratch, 8);
    const ChunkPosition now = progress->now;
    const Step step = steps[now.index];
    const double loss = mean_losses[now.index];
    const long long at = blockIdx.x * 256ll + threadIdx.x, p = min(at, P - 1);
    // All four loads are on their way while the squares are added.
    const real raw = gradients[p], m_before = m[p], v_before = v[p], before = parameters[p];
    double sum = 0;
    for (int block = threadIdx.x; block < square_count; block += 256) sum += squares[block];
    sum = block_sum(sum, scratch);
    const real rounded = sum;  // infinite where the squares in v would be, too
    const double norm = isfinite(rounded) ? sqrt(sum) : static_cast<double>(rounded);
    const bool changes = !now.stopped && isfinite(norm) && isfinite(loss);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        const bool passed_over = SCALED && !now.stopped && !isfinite(norm) && isfinite(loss) && scaling->scale > 1;
        if (passed_over) *scaling = {scaling->scale / 2, 0};
        if (SCALED && changes) {
            const int good_steps = scaling->good_steps + 1;
            const bool grows = good_steps >= GROWTH;
            *scaling = {grows ? min(2 * scaling->scale, MOST_SCALE) : scaling->scale, grows ? 0 : good_steps};
        }
        norms[now.index] = passed_over ? 0 : norm;
        progress->next = {now.index + 1, max(now.stopped, static_cast<int>(!changes && !passed_over))};
    }
    if (!changes || at >= P) return;
    const real gradient = raw * static_cast<real>(clip > 0 && norm > clip ? clip / norm : 1);
    const real mean = real(BETA1) * m_before + real(1 - BETA1) * gradient;
    const real square = real(BETA2) * v_before + real(1 - BETA2) * (gradient * gradient);
    m[p] = mean;
    v[p] = square;
    const real root = sqrt(square) / static_cast<real>(step.root) + real(EPSILON);
    parameters[p] = before * static_cast<real>(step.decay) - static_cast<real>(step.step_size) * mean / root;
}
