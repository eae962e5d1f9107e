// What a fiber is to the machine: a stack, the switch to another one, and what the sanitizers are told.
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

// ThreadSanitizer: what was done before a `before` of an order is seen after an `after` of it.
using Order = char;
#if defined(SANITIZE_THREAD)
void before(Order& order) { __tsan_release(&order); }
void after(Order& order) { __tsan_acquire(&order); }
// Memory used again would look like a race between its users, so a launch uses none twice.
constexpr bool reuses = false;
#else
void before(Order&) {}
void after(Order&) {}
constexpr bool reuses = true;
#endif

// AddressSanitizer: which bytes may be touched; it also finds variables too small for what is put in them.
#if defined(SANITIZE_ADDRESS)
void forbid(void* begin, size_t bytes) { __asan_poison_memory_region(begin, bytes); }
void allow(void* begin, size_t bytes) { __asan_unpoison_memory_region(begin, bytes); }
constexpr size_t gap = 128;
#else
void forbid(void*, size_t) {}
void allow(void*, size_t) {}
constexpr size_t gap = 0;
#endif

constexpr size_t round_up(size_t number, size_t unit) { return (number + unit - 1) / unit * unit; }

unsigned char* map(size_t bytes) {
    void* begin = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED) std::perror("emulator: no memory for a kernel's threads"), std::abort();
    return static_cast<unsigned char*>(begin);
}

// ---- A place to run on, and the switch from one to another ----

#if defined(SANITIZE_ADDRESS) || defined(SANITIZE_THREAD)
constexpr size_t stack_bytes = 256 << 10;
#else
constexpr size_t stack_bytes = 64 << 10;
#endif

#if defined(__x86_64__)
struct Context {
    void* stack_pointer = nullptr;
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
    words[6] = reinterpret_cast<void*>(entry);  // what `ret` takes, with the stack aligned as after a call
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

// Stacks, kept for the next launch.
class Stacks {
  public:
    void* take() {
        std::lock_guard lock(mutex_);
        if (free_.empty()) {
            // Not a power of two apart, for the caches' sake.
            constexpr size_t stride = stack_bytes + 17 * 64, count = 64;
            unsigned char* slab = map(stride * count);
            for (size_t i = 0; i < count; ++i) free_.push_back(slab + i * stride);
        }
        void* stack = free_.back();
        free_.pop_back();
        allow(stack, stack_bytes);  // a failed launch leaves the frames that it was in
        return stack;
    }
    void give_back(const std::vector<void*>& stacks) {
        std::lock_guard lock(mutex_);
        free_.insert(free_.end(), stacks.begin(), stacks.end());
    }

  private:
    std::mutex mutex_;
    std::vector<void*> free_;
};
Stacks& stacks = *new Stacks;  // never destroyed: threads may outlive static destructors

}  // namespace
}  // namespace emulator
