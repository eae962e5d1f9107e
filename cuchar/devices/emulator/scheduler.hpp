// A launch's threads and blocks, and the order in which they run: an OS thread runs a bundle of blocks, whose threads
// are fibers that take turns. See runtime.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "runtime.hpp"
#include "stacks.hpp"
#include "tensor.hpp"

namespace emulator {
namespace {

// Fibers that are `unborn`, `ready` or `gave_way` may run. The first has no stack yet, and the last has nothing to do
// but to look again at what it waits for. One that is `waiting` goes on when another makes it `ready`, one that is
// `watching` when a condition holds.
enum class Status : unsigned char { unborn, ready, gave_way, waiting, watching, ended };

struct Block;

// A CUDA thread.
struct Fiber : Self {
    Block* owner;
    Status status = Status::unborn;
    // While it waits: for what, and where, in the kernel's source; and the next one of those at the same barrier.
    const char* waits_for = "";
    Where where;
    Fiber* next;
    // While it watches: it goes on when holds(watched, value) is true, or, if it can give up, when none else can go on.
    bool (*holds)(const void* watched, uint64_t value);
    const void* watched;
    uint64_t value;
    bool can_give_up, gave_up;
    // In a warp operation: the lanes that take part, what this one brings, and from which lane it gets its result (32:
    // the result is everybody's votes).
    unsigned mask, source;
    uint64_t brought = 0, result;
    Fragments fragments;    // what it brings to an mma
    unsigned meetings = 0;  // how many operations are over of masks whose first lane this is
    Sync sync[2];           // for those of even and of odd number

    Stack stack;
    Context context;
#if defined(SANITIZE_ADDRESS)
    void* fake_stack = nullptr;
#endif
    unsigned lane() const { return thread.x % 32; }
};

// The barrier of a block or of a cluster.
struct Barrier {
    unsigned arrived = 0, votes = 0;  // of the meeting under way
    unsigned meetings = 0;            // how many are over
    Fiber* waiting = nullptr;         // the last one that arrived; the others follow by `next`
    // For meetings of even and of odd number: a thread may arrive at the next one before another has left this one.
    Sync sync[2];
};

struct Block {
    struct Bundle* bundle;
    unsigned number;
    unsigned char* memory;  // its shared memory: the dynamic part, then the static variables
    Barrier barrier;
    std::vector<unsigned> in_warp_operation;  // for each warp, the mask of the lanes that wait in an operation
    std::unique_ptr<Fiber[]> fibers;
};

std::string text_of(const Where& where) { return std::string(where.file) + ":" + std::to_string(where.line); }
bool same(const Where& a, const Where& b) {
    return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

// A lock. It is not std::mutex, which ThreadSanitizer would take for a synchronisation of the kernel's threads.
class Lock {
  public:
    explicit Lock(std::atomic_flag& flag) : flag_(flag) {
        while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
    }
    ~Lock() { flag_.clear(std::memory_order_release); }

  private:
    std::atomic_flag& flag_;
};

// One launch of `kernel`, whose threads each do call(kernel, arguments).
struct Grid {
    const Launch& launch;
    void (*call)(void*, const unsigned char*);
    void* kernel;
    std::atomic<bool> failed{false};
    Sync end;  // Whoever waits for the launch sees what its threads did.

    Grid(const Launch& launch, void (*call)(void*, const unsigned char*), void* kernel)
        : launch(launch), call(call), kernel(kernel) {}

    // The launch has failed. Of several reasons the first is told.
    void report(const std::string& text) {
        if (failed.exchange(true)) return;
        std::snprintf(launch.message, launch.message_bytes, "%s", text.c_str());
    }

    // A static shared variable has the same offset in every block's memory, as on the device, whoever uses it first.
    struct Variable {
        const void* key;
        size_t offset;
    };
    static constexpr size_t static_bytes = 48 << 10, most_variables = 64;  // 48 KiB is the device's own limit.
    static constexpr size_t no_room = -1;
    std::atomic_flag locked = ATOMIC_FLAG_INIT;
    Variable variables[most_variables];
    unsigned known = 0;  // variables
    size_t used = 0;     // bytes of them
    size_t next = round_up(launch.shared_bytes, 16) + gap;  // the offset from which on nothing is taken
    const size_t shared_stride = round_up(next + static_bytes + most_variables * (2 * gap + 32), 4096);

    size_t offset_of(const void* key, size_t bytes, size_t alignment) {
        Lock lock(locked);
        for (unsigned i = 0; i < known; ++i)
            if (variables[i].key == key) return variables[i].offset;
        used += bytes;
        if (known == most_variables || used > static_bytes) return no_room;
        // With AddressSanitizer it is aligned no better than its type asks for, so that a wider access is found.
        const size_t offset = round_up(next, std::max<size_t>(alignment, 16)) + (gap && alignment <= 8 ? 8 : 0);
        next = offset + bytes + gap;
        Variable& variable = variables[known];
        ++known;
        variable = {key, offset};
        return offset;
    }
};

// The blocks that one OS thread runs together: one block, a cluster's, or all of a cooperative launch.
struct Bundle {
    Grid& grid;
    std::vector<Block> blocks;
    std::vector<Barrier> clusters;
    std::vector<Fiber*> fibers;
    std::vector<Stack> spare;  // stacks of threads that have ended
    std::minstd_rand random;
    Context scheduler;
#if defined(SANITIZE_THREAD)
    void* tsan = __tsan_get_current_fiber();
#endif
#if defined(SANITIZE_ADDRESS)
    void* fake_stack = nullptr;
    const void* bottom = nullptr;
    size_t bytes = 0;
#endif

    Bundle(Grid& grid, unsigned first, unsigned count, unsigned char* memory)
        : grid(grid),
          blocks(count),
          clusters(count / grid.launch.cluster),
          random(grid.launch.seed * 7919u + first + 1) {
        const Launch& launch = grid.launch;
        const size_t bytes = count * grid.shared_stride;
        allow(memory, bytes);  // An earlier bundle in this memory has left bytes forbidden.
        std::memset(memory, 0xff, bytes);
        forbid(memory, bytes);
        for (unsigned i = 0; i < count; ++i, memory += grid.shared_stride) {
            Block& block = blocks[i];
            block.bundle = this;
            block.number = first + i;
            block.memory = memory;
            allow(memory, launch.shared_bytes);
            block.in_warp_operation.resize((launch.block + 31) / 32);
            block.fibers = std::make_unique<Fiber[]>(launch.block);
            for (unsigned thread = 0; thread < launch.block; ++thread) {
                Fiber& fiber = block.fibers[thread];
                static_cast<Self&>(fiber) = {{thread}, {block.number}, {launch.block}, {launch.grid},
                                             block.number % launch.cluster, memory};
                fiber.owner = &block;
                fibers.push_back(&fiber);
            }
        }
        if (launch.schedule == 1) std::reverse(fibers.begin(), fibers.end());
    }

    Bundle(const Bundle&) = delete;

    ~Bundle() {
        for (Fiber* fiber : fibers) {
            if (!fiber->stack.memory) continue;
            if (fiber->status != Status::ended) fiber->stack.forget();
            spare.push_back(fiber->stack);
        }
        stacks.give_back(spare);
    }

    // Runs the threads, round after round, until all have ended or the launch has failed. A round is idle in which no
    // thread did more than look at a flag: many of them mean that nobody will set it.
    void run() {
        constexpr unsigned most_idle_rounds = 10000;
        size_t alive = fibers.size();
        unsigned idle_rounds = 0;
        while (alive && !grid.failed) {
            if (grid.launch.schedule == 2) std::shuffle(fibers.begin(), fibers.end(), random);
            bool any = false, idle = true;
            for (Fiber* fiber : fibers) {
                if (fiber->status == Status::watching && fiber->holds(fiber->watched, fiber->value))
                    fiber->status = Status::ready;
                if (fiber->status > Status::gave_way) continue;
                enter(*fiber);
                if (grid.failed) break;
                any = true;
                idle = idle && fiber->status == Status::gave_way;
                if (fiber->status == Status::ended) --alive;
            }
            idle_rounds = idle ? idle_rounds + 1 : 0;
            const bool stuck = !any || idle_rounds > most_idle_rounds;
            if (!grid.failed && stuck && !give_up()) grid.report(deadlock());
        }
    }

    // Has every thread that can give up do so, and returns whether there is one.
    bool give_up() {
        bool any = false;
        for (Fiber* fiber : fibers)
            if (fiber->status == Status::watching && fiber->can_give_up) {
                any = true;
                fiber->gave_up = true;
                fiber->status = Status::ready;
            }
        return any;
    }

    // The message of a deadlock: block by block, which threads wait where, for what.
    std::string deadlock() const {
        constexpr unsigned most = 4;
        auto state = [](const Fiber& fiber) {
            if (fiber.status == Status::ended) return std::string("ended");
            return std::string("wait for ") + fiber.waits_for + " at " + text_of(fiber.where);
        };
        std::string text = "deadlock";
        unsigned told = 0;
        for (const Block& block : blocks) {
            const Fiber *begin = block.fibers.get(), *end = begin + grid.launch.block;
            if (std::all_of(begin, end, [](const Fiber& fiber) { return fiber.status == Status::ended; })) continue;
            ++told;
            if (told > most) continue;
            text += (told > 1 ? "; block " : ": block ") + std::to_string(block.number) + ":";
            for (const Fiber* first = begin; first < end;) {
                const std::string doing = state(*first);
                const Fiber* last = first + 1;
                while (last < end && state(*last) == doing) ++last;
                text += (first > begin ? ", threads " : " threads ") + std::to_string(first->thread.x) + "-" +
                        std::to_string(last[-1].thread.x) + " " + doing;
                first = last;
            }
        }
        if (told > most) text += "; and " + std::to_string(told - most) + " more blocks";
        return text;
    }

    // What a fiber does on its new stack.
    static void entry() {
        Fiber& fiber = *static_cast<Fiber*>(self);
        Bundle& bundle = *fiber.owner->bundle;
#if defined(SANITIZE_ADDRESS)
        __sanitizer_finish_switch_fiber(nullptr, &bundle.bottom, &bundle.bytes);
#endif
        bundle.grid.call(bundle.grid.kernel, bundle.grid.launch.arguments);
        leave(fiber, Status::ended);
        std::abort();  // It is never reached, since a thread that has ended is not entered again.
    }

    // Runs a thread until it leaves.
    void enter(Fiber& fiber) {
        const bool begins = fiber.status == Status::unborn;
        if (begins) {
            if (spare.empty() || !reuses) {
                fiber.stack = stacks.take();
            } else {
                fiber.stack = spare.back();
                spare.pop_back();
            }
            prepare(fiber.context, fiber.stack.memory, &entry);
        }
        self = &fiber;
#if defined(SANITIZE_THREAD)
        // A thread that begins sees what was done before the launch.
        __tsan_switch_to_fiber(fiber.stack.tsan, begins ? 0 : __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SANITIZE_ADDRESS)
        __sanitizer_start_switch_fiber(&fake_stack, fiber.stack.memory, stack_bytes);
#endif
        jump(scheduler, fiber.context);
#if defined(SANITIZE_ADDRESS)
        __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
        if (fiber.status == Status::ended && reuses) {
            spare.push_back(fiber.stack);
            fiber.stack = {};
        }
    }

    // Called by a thread itself: goes back to `run`, and returns when the thread is entered again.
    static void leave(Fiber& fiber, Status status) {
        fiber.status = status;
        Bundle& bundle = *fiber.owner->bundle;
        release(bundle.grid.end);
#if defined(SANITIZE_THREAD)
        __tsan_switch_to_fiber(bundle.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SANITIZE_ADDRESS)
        void** fake_stack = status == Status::ended ? nullptr : &fiber.fake_stack;
        __sanitizer_start_switch_fiber(fake_stack, bundle.bottom, bundle.bytes);
#endif
        jump(fiber.context, bundle.scheduler);
#if defined(SANITIZE_ADDRESS)
        __sanitizer_finish_switch_fiber(fiber.fake_stack, &bundle.bottom, &bundle.bytes);
#endif
    }
};

}  // namespace
}  // namespace emulator
