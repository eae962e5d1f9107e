/* cpu/recurrence.cpp: forward and back-propagation through time on the processor, a whole window in one call.
 *   a = W_ih x + W_hh h + b    i,f,o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)    c' = f*c + i*g    h' = o*tanh(c')
 *   dc = dh*o*(1 - tanh(c')^2) + f'*dc'    da_i = dc*g*i*(1-i)    da_f = dc*c*f*(1-f)    da_g = dc*i*(1-g^2)
 *   da_o = dh*tanh(c')*o*(1-o)    dh = W_above^T da_above + W_hh^T da'              (' of the step after)
 * Batch rows do not meet before the weights' gradients. So every thread takes some rows through all layers and steps,
 * forward and back; then they share the gradients' rows. A thread reads a step's weights once for all of its rows.
 * Every number has one order of summation: the same bits, whatever the number of threads is.
 * Reference: cuchar/engines/numpy_engine.py
 */
#include "cpu/adam.hpp"
#include "cpu/backward.hpp"
#include "cpu/draw.hpp"
#include "cpu/forward.hpp"
#include "cpu/gradients.hpp"

extern "C" {

const char* instructions() { return INSTRUCTIONS; }

int lanes() { return LANES; }

long weights_size(const Task* task) { return Layout(*task).size(); }

/* `trips` times the multiplications and additions of a tile in registers, on each of the threads: no product is faster.
 * Returns how many operations that were.
 */
double multiply_add(long threads, long trips) {
    std::vector<Lanes> kept(threads);
    Team::run(threads, [&](int thread, Team&) {
        constexpr int SUMS = ROWS * WIDTH;
        Lanes sum[SUMS], factor = all(0.5);
        for (int i = 0; i < SUMS; ++i) sum[i] = all(thread + i);  // others, or the compiler makes one of them
        for (long trip = 0; trip < trips; ++trip)
#pragma GCC unroll 32
            for (int i = 0; i < SUMS; ++i) sum[i] = fused(sum[i], factor, factor);
        for (int i = 0; i < SUMS; ++i) kept[thread] += sum[i];
    });
    return 2.0 * ROWS * WIDTH * LANES * trips * threads;
}

/* From parameters to weights, but for what back-propagation alone needs. */
void fold_weights(const Task* task) {
    Team::run(task->threads, [&](int thread, Team&) { fold(*task, thread, false); });
}

/* From folded weights to logits and, where there are targets, losses. */
void run_forward(const Task* task) {
    Team::run(task->threads, [&](int thread, Team&) { forward(*task, Layout(*task), Share(task->B, thread, task->threads)); });
}

/* From parameters to losses and gradients. */
void run_window(const Task* task) {
    Team::run(task->threads, [&](int thread, Team& team) {
        const Layout at(*task);
        const Share rows(task->B, thread, task->threads);
        fold(*task, thread, true);
        team.meet();
        forward(*task, at, rows);
        backward(*task, at, rows);
        team.meet();
        gradients(*task, at, thread);
    });
}

/* One step of Adam. Returns the gradients' norm before clipping. */
double update(const Update* update) { return adam(*update); }

/* Characters `position`, `position` + 1, ... of B streams, numbered from `stream`: made [count,B].
 * T is 1; inputs are the characters before, and afterwards the last ones made; h[l][0] and c[l][0] are the state.
 */
void sample(
    const Task* task, const Law* law, std::uint64_t seed, std::uint64_t stream, std::uint64_t position, long count,
    std::int32_t* inputs, std::int32_t* made) {
    Team::run(task->threads, [&](int thread, Team&) {
        const Layout at(*task);
        const Share rows(task->B, thread, task->threads);
        Urn urn(*law, at.V);
        for (long k = 0; k < count; ++k) {
            forward(*task, at, rows);
            for (long b = rows.begin; b < rows.end; ++b) {
                const int id = urn.draw(task->logits + b * at.Vp, draw_uniform(seed, stream + b, position + k));
                made[k * task->B + b] = id;
                inputs[b] = std::max(id, 0);
            }
            for (real* state : {task->h, task->c})
                for (long layer = 0; layer < at.L; ++layer) {
                    real* before = state + (2 * layer * task->B + rows.begin) * at.Hp;
                    std::copy_n(before + task->B * at.Hp, (rows.end - rows.begin) * at.Hp, before);
                }
        }
    });
}
}
