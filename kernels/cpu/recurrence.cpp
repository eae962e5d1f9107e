/* cpu/recurrence.cpp: the engine for processors, as the functions that Python calls (cuchar/engines/cpu/engine.py): a
 * window forward, through the loss and back, Adam, and sampling.
 *   a = W_ih x + W_hh h + b    i,f,o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)    c' = f*c + i*g    h' = o*tanh(c')
 *   dh = W_above^T da_above + W_hh^T da_next    dc = dh*o*(1 - tanh(c')^2) + f_next*dc_next
 *   da_i = dc*g*i*(1-i)    da_f = dc*c*f*(1-f)    da_g = dc*i*(1-g^2)    da_o = dh*tanh(c')*o*(1-o)
 * `next` is of the time step after. What a call takes is in `Task` (layout.hpp), `Update` (adam.hpp), `Law` (draw.hpp).
 * Batch rows do not meet before the parameters' gradients are summed. So a window is three calls, whose work is cut into
 * jobs that threads take as they come free (thread_pool.hpp): `fold_weights`; `run_both_ways`, which takes some batch rows
 * through all layers and time steps, forward and back; and `sum_gradients`. Forward alone and drawing are cut by rows too,
 * but by units where the rows are fewer than the threads (forward_by_units).
 * Every sum has one order, which the header of its file tells: the number of threads changes no bit.
 * Reference: cuchar/engines/numpy_engine.py
 */
#include "cpu/adam.hpp"
#include "cpu/backward.hpp"
#include "cpu/draw.hpp"
#include "cpu/forward.hpp"
#include "cpu/gradients.hpp"
#include "cpu/weight_dropout.hpp"

extern "C" {

/* The name of the vector instructions that this was compiled for. */
const char* instructions() { return INSTRUCTIONS; }

/* How many numbers a vector holds, which rows are padded to a multiple of. */
int lanes() { return LANES; }

/* How many numbers the folded weights of a model have. */
long weights_size(const Task* task) { return Layout(*task).size(); }

/* Repeats `trips` times, on each of the threads, the multiplications and additions of a tile whose numbers are all in
 * registers. No product is faster, so this measures the processor's limit. Returns the number of operations.
 */
double multiply_add(long threads, long trips) {
    std::vector<Lanes> kept(threads);
    ThreadPool::run(threads, threads, [&](long job) {
        constexpr int SUMS = TILE_ROWS * TILE_VECTORS;
        Lanes sum[SUMS], factor = all(0.5);
        for (int i = 0; i < SUMS; ++i) sum[i] = all(job + i);  // If all were equal, the compiler would keep one.
        for (long trip = 0; trip < trips; ++trip)
#pragma GCC unroll 32
            for (int i = 0; i < SUMS; ++i) sum[i] = fused(sum[i], factor, factor);
        for (int i = 0; i < SUMS; ++i) kept[job] += sum[i];
    });
    return 2.0 * TILE_ROWS * TILE_VECTORS * LANES * trips * threads;
}

/* Multiplies the recurrent weights in `flat`, the parameters or their gradients, by the factors of their dropout. */
void drop_weights(const Task* task, real* flat) {
    ThreadPool::run(task->threads, task->threads, [&](long job) { drop_recurrent(*task, flat, job); });
}

/* From parameters to folded weights; those that only backward reads are made where it is asked for. */
void fold_weights(const Task* task, bool with_backward) {
    ThreadPool::run(task->threads, task->threads, [&](long job) { fold(*task, job, with_backward); });
}

/* From folded weights to logits and, where there are targets, losses. */
void run_forward(const Task* task) {
    const Layout layout(*task);
    if (task->threads > task->B) return forward_by_units(*task, layout);
    ThreadPool::run(task->threads, task->threads, [&](long job) {
        forward(*task, layout, Share(task->B, job, task->threads));
    });
}

/* From folded weights to losses, and back to da and dlogits. */
void run_both_ways(const Task* task) {
    const Layout layout(*task);
    const long jobs = std::min(task->B, task->threads);
    ThreadPool::run(task->threads, jobs, [&](long job) {
        const Share batch_rows(task->B, job, jobs);
        forward(*task, layout, batch_rows);
        backward(*task, layout, batch_rows);
    });
}

/* From da and dlogits to the parameters' gradients. */
void sum_gradients(const Task* task) {
    const Layout layout(*task);
    ThreadPool::run(
        task->threads, GradientJobs(*task, layout).count(), [&](long job) { gradient_job(*task, layout, job); });
}

/* One training step of Adam. Returns the gradients' norm before clipping. */
double update(const Update* update) { return adam(*update); }

/* Makes characters `position` .. `position` + count-1 of each of B streams, which are numbered from `stream`: made
 * [count,B]. T is 1. `inputs` are the characters before, and are replaced by the last ones made; h[l][0] and c[l][0]
 * are the state, and are replaced by the state after the last ones. A stream whose logits are not finite gets id -1.
 */
void sample(
    const Task* task, const Law* law, std::uint64_t seed, std::uint64_t stream, std::uint64_t position, long count,
    std::int32_t* inputs, std::int32_t* made) {
    const Layout layout(*task);
    // Draws the characters number k, and makes the state after them the state before the next ones.
    const auto draw = [&](Sampler& sampler, Share streams, long k) {
        for (long b = streams.begin; b < streams.end; ++b) {
            const real* const logits = task->logits + b * layout.Vp;
            const int id = sampler.draw(logits, draw_uniform(seed, stream + b, position + k));
            made[k * task->B + b] = id;
            inputs[b] = std::max(id, 0);
        }
        for (real* state : {task->h, task->c})
            for (long layer = 0; layer < layout.L; ++layer) {
                real* before = state + (2 * layer * task->B + streams.begin) * layout.Hp;
                real* const after = before + task->B * layout.Hp;
                std::copy_n(after, (streams.end - streams.begin) * layout.Hp, before);
            }
    };
    if (task->threads > task->B) {
        Sampler sampler(*law, layout.V);
        for (long k = 0; k < count; ++k) {
            forward_by_units(*task, layout);
            ThreadPool::run(1, 1, [&](long) { draw(sampler, Share::all(task->B), k); });
        }
        return;
    }
    ThreadPool::run(task->threads, task->threads, [&](long job) {
        const Share streams(task->B, job, task->threads);
        Sampler sampler(*law, layout.V);
        for (long k = 0; k < count; ++k) {
            forward(*task, layout, streams);
            draw(sampler, streams, k);
        }
    });
}
}
