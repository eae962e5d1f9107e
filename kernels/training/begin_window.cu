/* begin_window.cu: the state that enters a window, in slot 0 of h and c [L,T+1,B,H].
 * It is the state after the window before, slot T, or zero unless `carry`.
 * One thread per element of [L,B,H]. Also the first kernel of a step: progress->next becomes ->now, and the
 * persistent regime's flags [flag_count] become 0.
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
