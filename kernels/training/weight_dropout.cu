/* weight_dropout.cu: out = source, with the recurrent weights of every layer times their dropout factors. The source is
 * the parameters before a window, or their gradients after it. All batch rows and time steps of a training step share the
 * factors.
 * source, out [splits,P]: as parameters on a device, or partial sums of their gradients; they may be the same array
 * seed, threshold, scale: dropout.cuh; position in: of the training step, now or next in Progress
 * V, H, L: the model's sizes; a layer's tensors are W_ih [V,4H] or [4H,H], W_hh [4H,H] and the bias [4H]
 * One thread per element. Reference: cuchar/philox.py, weight_dropout_mask
 */
#include "common/dropout.cuh"
#include "common/step.cuh"

constexpr int OF_WEIGHTS = 1 << 30;  // is added to the layer, so that no layer's output has the same mask

extern "C" __global__ void __launch_bounds__(256) drop_weights(
    const real* source, real* out, long long count, long long P, int V, int H, int L, unsigned long long seed,
    unsigned threshold, real scale, const Step* steps, const ChunkPosition* position) {
    const long long number = blockIdx.x * 256ll + threadIdx.x;
    if (number >= count) return;
    const long long square = 4ll * H * H, first = 4ll * H * V;  // where layer 0's W_hh begins
    const long long layer_size = 2 * square + 4 * H;            // from a layer's W_hh to the next one's
    const long long at = number % P - first;
    const real value = source[number];
    const long long layer = at / layer_size, element = at % layer_size;
    if (at < 0 || layer >= L || element >= square) {
        out[number] = value;
        return;
    }
    const Dropout dropout = {seed, steps[position->index].number, threshold, 0, 0, scale};
    out[number] = value * dropout_factor(dropout, static_cast<int>(layer) | OF_WEIGHTS, element);
}
