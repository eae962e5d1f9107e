/* begin_window.cu: puts the state that enters a window into slot 0 of h and c.
 * h, c [L,T+1,B,H]: slot 0 out: with carry the state that the window before has left in slot T, else zeros; BH is B * H
 * progress: next in, now out; this is the first kernel of a training step
 * flags [flag_count] out: those of the persistent regime become 0
 * One thread per element of [L,B,H]; the threads share out the flags. Reference: cuchar/engines/host.py, HostLearner
 */
#include "common/real.cuh"
#include "common/step.cuh"

extern "C" __global__ void __launch_bounds__(256) begin_window(
    real* h, real* c, Progress* progress, unsigned* flags, int flag_count, int L, int T, long long BH, int carry) {
    const long long element = blockIdx.x * 256ll + threadIdx.x;
    if (element == 0) progress->now = progress->next;
    for (int flag = element; flag < flag_count; flag += gridDim.x * 256) flags[flag] = 0;
    if (element >= L * BH) return;
    const long long first = element / BH * (T + 1) * BH + element % BH, last = first + T * BH;
    h[first] = carry ? h[last] : real(0);
    c[first] = carry ? c[last] : real(0);
}
