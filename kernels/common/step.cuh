/* step.cuh: what the host tells the device of a training step, and where training stands, in the device's memory.
 *
 * The host writes the `Step`s of a whole chunk of training steps at once. The launches of all steps are then the same,
 * so that one captured graph serves every step: the kernels find their own step through `Progress`. `next` says what
 * the step after this one reads, `now` what the kernels of this step work on: the first kernel of a step copies next to
 * now, the last one writes next. So within a launch no block writes what another block
 * of that launch reads.
 */
#pragma once

struct Step {
    long long origin;           // where in the corpus row 0 of the window begins
    unsigned long long number;  // of the training step, counted from 1
    double step_size;           // learning rate / (1 - beta1^number)
    double root;                // sqrt(1 - beta2^number)
    double decay;               // 1 - learning rate * weight decay
};

/* Where training stands in a chunk. */
struct ChunkPosition {
    int index;    // of the training step in the chunk
    // 0: training goes on; 1: a loss or gradient was not finite; more: a block waited too long. Once it is not 0, no
    // kernel changes the parameters any more.
    int stopped;
};

struct Progress {
    ChunkPosition now, next;
};

#ifndef SCALED
#define SCALED 0  // 1 for fp16, whose gradients are scaled
#endif

/* Loss scaling: dlogits, and with it every gradient, is multiplied by `scale`, so that fp16 holds small gradients. */
struct Scaling {
    float scale;
    int good_steps;  // training steps since the scale was last changed
};
