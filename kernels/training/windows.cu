/* windows.cu: cuts the windows of a chunk out of the corpus.
 *   inputs[k,t,b] = corpus[origin_k + b * row_length + t]     targets[k,t,b]: the character after it
 * corpus in: ids, of the type that the macro ID names, the smallest that holds the vocabulary
 * steps [windows] in: where each window begins, origin_k
 * inputs, targets [windows,T,B] out; row_length: characters from one batch row's text to the next's
 * One thread per (k,t,b). Reference: cuchar/batches.py, Windows
 */
#include "common/step.cuh"

#ifndef ID
#define ID unsigned char
#endif

extern "C" __global__ void __launch_bounds__(256) cut_windows(
    const ID* corpus, const Step* steps, int* inputs, int* targets, int windows, int T, int B, long long row_length) {
    const long long element = blockIdx.x * 256ll + threadIdx.x;
    if (element >= static_cast<long long>(windows) * T * B) return;
    const int b = element % B, t = element / B % T, k = element / B / T;
    const ID* at = corpus + steps[k].origin + b * row_length + t;
    inputs[element] = at[0];
    targets[element] = at[1];
}
