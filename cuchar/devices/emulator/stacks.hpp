// What a fiber is to the machine: a stack, and the switch from one stack to another. Also what the sanitizers are told.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#if defined(SANITIZE_THREAD)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(SANITIZE_ADDRESS)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {
namespace {

// ---- What the sanitizers are told ----

// ThreadSanitizer: what a thread did before it released a `Sync` is seen by a thread that acquires that `Sync` later.
using Sync = char;
#if defined(SANITIZE_THREAD)
void release(Sync& sync) { __tsan_release(&sync); }
void acquire(Sync& sync) { __tsan_acquire(&sync); }
// Two threads that used the same memory one after the other would look like a race, so a launch uses none twice.
constexpr bool reuses = false;
#else
void release(Sync&) {}
void acquire(Sync&) {}
constexpr bool reuses = true;
#endif

// AddressSanitizer: which bytes a kernel may touch. Between two shared variables lies a gap that it may not, so that a
// variable too small for what is put into it is found.
#if defined(SANITIZE_ADDRESS)
void forbid(void* begin, size_t bytes) { __asan_poison_memory_region(begin, bytes); }
void allow(void* begin, size_t bytes) { __asan_unpoison_memory_region(begin, bytes); }
constexpr size_t gap = 128;
#else
void forbid(void*, size_t) {}
void allow(void*, size_t) {}
constexpr size_t gap = 0;
#endif

constexpr size_t round_up(size_t number, size_t multiple) {
    return (number + multiple - 1) / multiple * multiple;
}

// Memory of zeros from the operating system; without any left, the process ends.
unsigned char* map(size_t bytes) {
    void* begin = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED) {
        std::perror("emulator: no memory for a kernel's threads");
        std::abort();
    }
    return static_cast<unsigned char*>(begin);
}

// ---- A stack to run on, and the switch from one to another ----

#if defined(SANITIZE_ADDRESS) || defined(SANITIZE_THREAD)
constexpr size_t stack_bytes = 256 << 10;
#else
constexpr size_t stack_bytes = 64 << 10;
#endif

// A Context is a thread of execution that does not run now: what is needed to go on with it. `prepare` makes one that
// will begin with `entry` on a stack. `jump` leaves the one that runs, which is kept in `from`, and goes on with `to`.
#if defined(__x86_64__)
struct Context {
    void* stack_pointer = nullptr;  // The registers that a call preserves lie on the stack, from there on.
};
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
void prepare(Context& context, void* stack, void (*entry)()) {
    void** words = reinterpret_cast<void**>(static_cast<unsigned char*>(stack) + stack_bytes) - 8;
    std::fill(words, words + 8, nullptr);
    words[6] = reinterpret_cast<void*>(entry);  // `ret` goes there, with the stack aligned as after a call.
    context.stack_pointer = words;
}
void jump(Context& from, Context& to) { emulator_switch(&from.stack_pointer, to.stack_pointer); }
#else
struct Context {
    ucontext_t registers;
};
void prepare(Context& context, void* stack, void (*entry)()) {
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = stack;
    context.registers.uc_stack.ss_size = stack_bytes;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, entry, 0);
}
void jump(Context& from, Context& to) { swapcontext(&from.registers, &to.registers); }
#endif

// A stack, and what ThreadSanitizer knows of who runs on it. To make that takes longer than to run a small kernel's
// thread, so that it is kept with the stack, for a thread of a later launch. A thread that has failed never returned
// from its calls: then it must be made anew.
struct Stack {
    void* memory = nullptr;
#if defined(SANITIZE_THREAD)
    void* tsan = nullptr;
#endif
    void forget() {
#if defined(SANITIZE_THREAD)
        if (tsan) __tsan_destroy_fiber(tsan);
        tsan = nullptr;
#endif
    }
};

// The stacks that no thread uses now, which are kept for the next launch.
class Stacks {
  public:
    Stack take() {
        std::lock_guard lock(mutex_);
        if (free_.empty()) {
            // Were they a power of two apart, the same depth of all stacks would compete for the same lines of a cache.
            constexpr size_t stride = stack_bytes + 17 * 64, count = 64;
            unsigned char* slab = map(stride * count);
            for (size_t i = 0; i < count; ++i) free_.push_back({slab + i * stride});
        }
        Stack stack = free_.back();
        free_.pop_back();
        allow(stack.memory, stack_bytes);  // A failed launch never returned from the frames that it was in.
#if defined(SANITIZE_THREAD)
        if (!stack.tsan) stack.tsan = __tsan_create_fiber(0);
#endif
        return stack;
    }
    void give_back(const std::vector<Stack>& stacks) {
        std::lock_guard lock(mutex_);
        free_.insert(free_.end(), stacks.begin(), stacks.end());
    }

  private:
    std::mutex mutex_;
    std::vector<Stack> free_;
};
Stacks& stacks = *new Stacks;  // It is never destroyed, since threads may outlive static destructors.

}  // namespace
}  // namespace emulator
