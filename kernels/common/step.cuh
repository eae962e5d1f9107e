/* step.cuh: what the host tells of a training step, and where training stands, on the device.
 *
 * A chunk of steps is told at once; launches are the same for all, so that a captured graph serves
 * every step. `next` is what the step after this one reads, `now` what the kernels of this step do:
 * the first kernel of a step copies next to now, the last one writes next. No kernel writes what
 * another of its blocks reads.
 */
#pragma once

struct Step {
    long long origin;           // of row 0 of the window, in the corpus
    unsigned long long number;  // from 1
    double step_size;           // learning rate / (1 - beta1^number)
    double root;                // sqrt(1 - beta2^number)
    double decay;               // 1 - learning rate * weight decay
};

struct Place {
    int index;    // in the chunk
    int stopped;  // 1: a loss or gradient was not finite; more: a block waited too long. Nothing changes any more
};

#ifndef SCALED
#define SCALED 0  // 1 for fp16: there is a loss scaling
#endif

/* What gradients are multiplied by from dlogits on, so that fp16 holds them, and for how many steps it was so. */
struct Scaling {
    float scale;
    int good_steps;
};

struct Progress {
    Place now, next;
};
