// The emulator's side of a kernel launch: what a compiled kernel (cuda.hpp, hardware.cuh) calls, and what Python calls.
//
// A CUDA thread is a fiber: a function call with a stack of its own, which can be left and entered again. In these
// files a "thread" is a CUDA thread; the operating system's are OS threads. The threads of a block are fibers of one OS
// thread. A fiber runs until it ends or has to wait. Then its OS thread takes the next one, in forward, reverse or
// shuffled order: what a missing barrier leaves to chance differs between the orders.
// The blocks of a cluster, and all blocks of a cooperative launch, share an OS thread; those of an ordinary launch are
// spread over the machine's cores. Whatever would hang or be undefined on a device (a barrier that some threads never
// reach, or reach elsewhere) ends the launch with a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace emulator {

struct Index {
    unsigned x;
};

// What Python fills in for a launch; `_Launch` in device.py has the same fields in the same order.
struct Launch {
    unsigned grid, block;
    unsigned cluster;       // how many blocks a cluster has; 1 without clusters
    unsigned cooperative;   // 1 if all blocks run at once
    unsigned shared_bytes;  // of each block's dynamic shared memory
    unsigned schedule;      // 0 forward, 1 reverse, 2 shuffled
    unsigned seed;          // of the shuffled schedule
    unsigned workers;       // OS threads for an ordinary launch
    const unsigned char* arguments;  // eight bytes each
    char* message;                   // where the reason is written if the launch fails
    unsigned message_bytes;
};

// A copy into shared memory that is under way (copy_async), with the value that its source had when it was issued. What
// it copies is in shared memory once its commit has been waited for, and not before.
struct Copy {
    void* to;
    const void* from;
    unsigned char value[32];
    unsigned bytes, commit;
};

// The running CUDA thread, as the kernel sees it.
struct Self {
    Index thread, block, block_dim, grid_dim;
    unsigned rank;          // of the block in its cluster
    unsigned char* shared;  // the block's dynamic shared memory
    std::vector<Copy> copies;
    unsigned commits = 0;
};
// Which CUDA thread runs on this OS thread. The tls_model has the variable lie at a fixed distance from an OS thread's
// own pointer: the room for that is given when the runtime is loaded, with the program's first kernel, or never.
// Without it the first use in an OS thread would allocate the variable, which ThreadSanitizer would take for the
// kernel's doing.
extern __thread Self* self __attribute__((tls_model("initial-exec")));

// The line of a call, for messages: what std::source_location has, which clang knows from version 16 on.
struct Where {
    const char* file = "";
    unsigned line = 0;

    static constexpr Where current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
        return {file, line};
    }
};

// Waits until all threads of the block are here, and returns how many of them voted true.
unsigned barrier(bool vote, const char* what, const Where& where);
// Waits until all threads of the cluster are here.
void cluster_barrier(const Where& where);

// Waits until every lane of `mask` is here, and returns what lane `source` brought.
uint64_t shuffle(unsigned mask, uint64_t brought, unsigned source, const Where& where);
// Waits until every lane of `mask` is here, and returns the mask of those that voted true.
unsigned ballot(unsigned mask, bool vote, const Where& where);
// Waits until every lane of `mask` is here. Each then sees what the others wrote before.
void warp_barrier(unsigned mask, const Where& where);

// Tensor cores (tensor.hpp). `rounded` returns the bits of the number of a format that is nearest to `number`. `mma`
// computes D += A * B by a whole warp: every lane brings its words of A [4] and B [2], and its numbers of D [4].
enum class Format { tf32, bf16, fp16 };
uint32_t rounded(Format format, float number);
void mma(Format format, float* d, const uint32_t* a, const uint32_t* b, const Where& where);

// The block's shared variable that belongs to `key`, which is any address that no other variable has. Its memory begins
// as 0xff bytes, which are NaN.
void* shared_variable(const void* key, size_t bytes, size_t alignment, const Where& where);
// Given an address in this block's shared memory, the same address in that of the cluster's block `rank`.
void* shared_of(void* mine, unsigned rank, const Where& where);
template <class Type>
Type* shared_of(Type* mine, unsigned rank, const Where& where) {
    return static_cast<Type*>(shared_of(static_cast<void*>(mine), rank, where));
}

// The word of a new mbarrier whose phases take so many arrivals, and what changes it: an arrival that announces bytes,
// bytes that have come, and a wait until phase `phase` is over.
uint64_t mbarrier_word(unsigned arrivals);
void mbarrier_expect(uint64_t* word, unsigned bytes, const Where& where);
void mbarrier_complete(uint64_t* word, unsigned bytes, const Where& where);
void mbarrier_wait(uint64_t* word, unsigned phase, const Where& where);

// Waits until *flag is at least `value`, and returns true. Returns false once *stopped is more than 1, or once no
// thread is left that could change either.
bool wait_flag(const unsigned* flag, unsigned value, const unsigned* stopped, const Where& where);
// In the shuffled schedule, now and then, lets the other threads run for a while.
void delay(const Where& where);
// Lets the other threads run, from a loop that waits for one of them.
void give_way(const Where& where);

long long nanoseconds();
// Ends the launch with a message that names the line, the block and the thread.
[[noreturn]] void fail(const char* message, const Where& where);

// Runs all threads of a launch, each as call(kernel, arguments). Returns true if the launch failed.
bool run(const Launch& launch, void (*call)(void* kernel, const unsigned char* arguments), void* kernel);

// What Python calls for a kernel: takes its arguments from the launch's bytes. Returns true if the launch failed.
template <class... A>
bool launch(void (*kernel)(A...), const Launch& launch) {
    auto call = [](void* function, const unsigned char* arguments) {
        [&]<size_t... I>(std::index_sequence<I...>) {
            reinterpret_cast<void (*)(A...)>(function)(*reinterpret_cast<const A*>(arguments + 8 * I)...);
        }(std::index_sequence_for<A...>{});
    };
    return run(launch, call, reinterpret_cast<void*>(kernel));
}

}  // namespace emulator
