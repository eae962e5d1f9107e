// A launch's threads and blocks, and the order in which they run. See runtime.hpp.
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

enum class Status : unsigned char { unborn, ready, gave_way, waiting, watching, ended };

struct Block;

struct Fiber : Self {
    Block* owner;
    Status status = Status::unborn;
    // While waiting:
    const char* waits_for = "";
    Where where;
    Fiber* next;  // at the same barrier
    // While watching: until holds(watched, value), or unless `gave_up`
    bool (*holds)(const void* watched, uint64_t value);
    const void* watched;
    uint64_t value;
    bool can_give_up, gave_up;
    // Warp operations:
    unsigned mask, source;
    uint64_t brought = 0, result;
    Fragments fragments;    // of an mma
    unsigned meetings = 0;  // of the lanes that this one is the first of
    Order order[2];

    void* stack = nullptr;
    Context context;
#if defined(SANITIZE_THREAD)
    void* tsan = nullptr;
#endif
#if defined(SANITIZE_ADDRESS)
    void* fake_stack = nullptr;
#endif
    unsigned lane() const { return thread.x % 32; }
};

struct Barrier {
    unsigned arrived = 0, votes = 0, turn = 0;
    Fiber* waiting = nullptr;
    Order order[2];  // one a turn: a thread may arrive at the next turn before another has left this one
};

struct Block {
    struct Unit* unit;
    unsigned number;
    unsigned char* memory;  // shared: dynamic, then static
    Barrier barrier;
    std::vector<unsigned> in_warp_operation;  // lanes, by warp
    std::unique_ptr<Fiber[]> fibers;
};

std::string place(const Where& where) { return std::string(where.file) + ":" + std::to_string(where.line); }
bool same(const Where& a, const Where& b) {
    return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

// Not std::mutex: ThreadSanitizer would take it for an order between the kernel's threads.
class Lock {
  public:
    explicit Lock(std::atomic_flag& flag) : flag_(flag) {
        while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
    }
    ~Lock() { flag_.clear(std::memory_order_release); }

  private:
    std::atomic_flag& flag_;
};

// One launch.
struct Grid {
    const Launch& launch;
    void (*call)(void*, const unsigned char*);
    void* kernel;
    std::atomic<bool> failed{false};
    Order order;

    Grid(const Launch& launch, void (*call)(void*, const unsigned char*), void* kernel)
        : launch(launch), call(call), kernel(kernel) {}

    void report(const std::string& text) {
        if (failed.exchange(true)) return;
        std::snprintf(launch.message, launch.message_bytes, "%s", text.c_str());
    }

    // A static shared variable has the same place in every block, as on the device, whichever gets to it first.
    struct Variable {
        const void* key;
        size_t offset;
    };
    static constexpr size_t static_bytes = 48 << 10, most_variables = 64;  // 48 KiB: the device's own limit
    static constexpr size_t no_room = -1;
    std::atomic_flag locked = ATOMIC_FLAG_INIT;
    Variable variables[most_variables];
    unsigned known = 0;
    size_t used = 0, next = round_up(launch.shared_bytes, 16) + gap;
    const size_t shared_stride = round_up(next + static_bytes + most_variables * (2 * gap + 32), 4096);

    size_t place_variable(const void* key, size_t bytes, size_t alignment) {
        Lock lock(locked);
        for (unsigned i = 0; i < known; ++i)
            if (variables[i].key == key) return variables[i].offset;
        used += bytes;
        if (known == most_variables || used > static_bytes) return no_room;
        // With AddressSanitizer no better aligned than the type asks for, so that a wider access shows.
        const size_t offset = round_up(next, std::max<size_t>(alignment, 16)) + (gap && alignment <= 8 ? 8 : 0);
        next = offset + bytes + gap;
        variables[known++] = {key, offset};
        return offset;
    }
};

// The blocks that one OS thread runs together: one, a cluster's, or all of a cooperative launch.
struct Unit {
    Grid& grid;
    std::vector<Block> blocks;
    std::vector<Barrier> clusters;
    std::vector<Fiber*> fibers;
    std::vector<void*> spare;  // stacks
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

    Unit(Grid& grid, unsigned first, unsigned count, unsigned char* memory)
        : grid(grid), blocks(count), clusters(count / grid.launch.cluster), random(grid.launch.seed * 7919u + first + 1) {
        const Launch& launch = grid.launch;
        const size_t bytes = count * grid.shared_stride;
        allow(memory, bytes);  // an earlier block's
        std::memset(memory, 0xff, bytes);
        forbid(memory, bytes);
        for (unsigned i = 0; i < count; ++i, memory += grid.shared_stride) {
            Block& block = blocks[i];
            block.unit = this;
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

    Unit(const Unit&) = delete;

    ~Unit() {
        for (Fiber* fiber : fibers) {
            if (fiber->stack) spare.push_back(fiber->stack);
#if defined(SANITIZE_THREAD)
            if (fiber->tsan) __tsan_destroy_fiber(fiber->tsan);
#endif
        }
        stacks.give_back(spare);
    }

    void run() {
        constexpr unsigned most_idle_turns = 10000;
        size_t alive = fibers.size();
        unsigned idle_turns = 0;  // in which no thread did more than look at a flag
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
            idle_turns = idle ? idle_turns + 1 : 0;
            if (!grid.failed && (!any || idle_turns > most_idle_turns) && !give_up()) grid.report(deadlock());
        }
    }

    // Whether some thread will no longer wait for a flag that nobody is left to set.
    bool give_up() {
        bool any = false;
        for (Fiber* fiber : fibers)
            if (fiber->status == Status::watching && fiber->can_give_up) {
                fiber->gave_up = any = true;
                fiber->status = Status::ready;
            }
        return any;
    }

    // Who waits where, block by block.
    std::string deadlock() const {
        constexpr unsigned most = 4;
        auto state = [](const Fiber& fiber) {
            if (fiber.status == Status::ended) return std::string("ended");
            return std::string("wait for ") + fiber.waits_for + " at " + place(fiber.where);
        };
        std::string text = "deadlock";
        unsigned told = 0;
        for (const Block& block : blocks) {
            const Fiber *begin = block.fibers.get(), *end = begin + grid.launch.block;
            if (std::all_of(begin, end, [](const Fiber& fiber) { return fiber.status == Status::ended; })) continue;
            if (++told > most) continue;
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

    static void entry() {
        Fiber& fiber = *static_cast<Fiber*>(self);
        Unit& unit = *fiber.owner->unit;
#if defined(SANITIZE_ADDRESS)
        __sanitizer_finish_switch_fiber(nullptr, &unit.bottom, &unit.bytes);
#endif
        unit.grid.call(unit.grid.kernel, unit.grid.launch.arguments);
        leave(fiber, Status::ended);
        std::abort();  // an ended thread is never entered again
    }

    void enter(Fiber& fiber) {
        if (fiber.status == Status::unborn) {
            if (spare.empty() || !reuses) {
                fiber.stack = stacks.take();
            } else {
                fiber.stack = spare.back();
                spare.pop_back();
            }
            prepare(fiber.context, fiber.stack, &entry);
#if defined(SANITIZE_THREAD)
            fiber.tsan = __tsan_create_fiber(0);
#endif
        }
        self = &fiber;
#if defined(SANITIZE_THREAD)
        __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SANITIZE_ADDRESS)
        __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, stack_bytes);
#endif
        jump(scheduler, fiber.context);
#if defined(SANITIZE_ADDRESS)
        __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
        if (fiber.status == Status::ended && reuses) {
            spare.push_back(fiber.stack);
            fiber.stack = nullptr;
        }
    }

    static void leave(Fiber& fiber, Status status) {
        fiber.status = status;
        Unit& unit = *fiber.owner->unit;
        before(unit.grid.order);
#if defined(SANITIZE_THREAD)
        __tsan_switch_to_fiber(unit.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SANITIZE_ADDRESS)
        __sanitizer_start_switch_fiber(status == Status::ended ? nullptr : &fiber.fake_stack, unit.bottom, unit.bytes);
#endif
        jump(fiber.context, unit.scheduler);
#if defined(SANITIZE_ADDRESS)
        __sanitizer_finish_switch_fiber(fiber.fake_stack, &unit.bottom, &unit.bytes);
#endif
    }
};

}  // namespace
}  // namespace emulator
