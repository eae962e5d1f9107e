/* draw.cu: draws the next character of every stream from its logits; the formulas: draw.cuh.
 * logits [streams,V] in; p [streams,V]: scratch
 * inputs [streams] out: the id that the next time step reads, 0 where there is none
 * made [streams] out: the id, or -1 where a logit is not finite
 * is_exp, top_k, coldness, top_p, min_p: struct Law
 * seed, first_stream, position: stream s is number first_stream + s, and this is its character `position`
 * One block of WARPS warps for each stream. Reference: cuchar/sampling.py, draw
 */
#include "sampling/draw.cuh"
#include "common/philox.cuh"

extern "C" __global__ void __launch_bounds__(DRAW_THREADS) draw_ids(
    const real* logits, double* p, int* inputs, int* made, int V, int is_exp, int top_k, double coldness, double top_p,
    double min_p, unsigned long long seed, unsigned long long first_stream, unsigned long long position) {
    SHARED(double, scratch, 8);
    const int s = blockIdx.x;
    const double uniform = draw_uniform(seed, first_stream + s, position);
    const long long row = static_cast<long long>(s) * V;
    const int id = draw({is_exp, top_k, coldness, top_p, min_p}, uniform, &logits[row], &p[row], V, scratch);
    if (threadIdx.x) return;
    inputs[s] = max(id, 0);
    made[s] = id;
}
