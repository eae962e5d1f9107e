// The emulator's side of a kernel launch: a CUDA thread is a fiber, a block's fibers share an OS thread.
//
// A fiber runs until it ends or has to wait, then its OS thread takes the next one, in forward,
// reverse or shuffled order: what a missing barrier leaves to chance differs between the orders.
// The blocks of a cluster, and all blocks of a cooperative launch, share an OS thread; those of an
// ordinary launch are spread over the machine's cores. Whatever would hang or be undefined on a
// device (a barrier that some threads never reach, or reach elsewhere) ends the launch with a message.
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

// What Python fills in; the same fields in the same order as `_Launch` in device.py.
struct Launch {
    unsigned grid, block;
    unsigned cluster;      // blocks of a cluster; 1 for none
    unsigned cooperative;  // all blocks at once
    unsigned shared_bytes;
    unsigned schedule;  // forward, reverse, shuffled
    unsigned seed;      // of the shuffled schedule
    unsigned workers;   // OS threads for an ordinary launch
    const unsigned char* arguments;  // eight bytes each
    char* message;                   // out: why the launch failed
    unsigned message_bytes;
};

// A copy under way, and its value when it was issued: it is in shared memory once its commit is waited for, and not before.
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
// initial-exec: else the first use in a thread allocates, which ThreadSanitizer takes for the kernel's doing.
extern __thread Self* self __attribute__((tls_model("initial-exec")));

// The line of a call, as std::source_location has it, which clang knows from 16 on.
struct Where {
    const char* file = "";
    unsigned line = 0;

    static constexpr Where current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
        return {file, line};
    }
};

// Until all threads of the block are here; returns how many of them voted.
unsigned barrier(bool vote, const char* what, const Where& where);
void cluster_barrier(const Where& where);

// Until every lane of `mask` is here; returns what lane `source` brought.
uint64_t shuffle(unsigned mask, uint64_t brought, unsigned source, const Where& where);
// Until every lane of `mask` is here; returns which of them voted.
unsigned ballot(unsigned mask, bool vote, const Where& where);
// The same, and what the lanes wrote before is seen by all of them.
void warp_barrier(unsigned mask, const Where& where);

// The operands of an mma (tensor.hpp): the bits of the nearest number of a format, and D += A * B by a whole warp, of
// which every lane brings its words of A [4] and B [2] and its numbers of D [4].
enum class Format { tf32, bf16, fp16 };
uint32_t rounded(Format format, float number);
void mma(Format format, float* d, const uint32_t* a, const uint32_t* b, const Where& where);

// The block's shared variable of that key (any address of its own), made of 0xff bytes: NaN.
void* shared_variable(const void* key, size_t bytes, size_t alignment, const Where& where);
// The place of another block's shared variable, given this block's.
void* shared_of(void* mine, unsigned rank, const Where& where);
template <class Type>
Type* shared_of(Type* mine, unsigned rank, const Where& where) {
    return static_cast<Type*>(shared_of(static_cast<void*>(mine), rank, where));
}

// An mbarrier's word, and what becomes of it.
uint64_t mbarrier_word(unsigned arrivals);
void mbarrier_expect(uint64_t* word, unsigned bytes, const Where& where);
void mbarrier_complete(uint64_t* word, unsigned bytes, const Where& where);
void mbarrier_wait(uint64_t* word, unsigned phase, const Where& where);

// Until *flag is at least `value`; false once *stopped is more than 1, or no thread can change either any more.
bool wait_flag(const unsigned* flag, unsigned value, const unsigned* stopped, const Where& where);
// In the shuffled schedule lets the other threads run for a while, or not.
void delay(const Where& where);
// Lets the other threads run, from a loop that waits for one of them.
void give_way(const Where& where);

long long nanoseconds();
[[noreturn]] void fail(const char* message, const Where& where);

bool run(const Launch& launch, void (*call)(void* kernel, const unsigned char* arguments), void* kernel);

// Called by Python: true if the launch failed.
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
