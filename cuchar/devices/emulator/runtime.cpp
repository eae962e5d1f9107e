// Barriers, warp operations, shared memory, flags and the launch itself: what runtime.hpp declares and describes. Also
// for the sanitizers this is compiled without -fsanitize: they are to see the kernel's accesses and not this file's,
// and are told by hand what the kernel may rely on (stacks.hpp).

#include "runtime.hpp"

#include <chrono>

#include "scheduler.hpp"

namespace emulator {

// For the attribute see runtime.hpp.
__thread Self* self __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

// ---- How a thread waits ----

Fiber& running() { return *static_cast<Fiber*>(self); }

void wait(Fiber& fiber, Status how, const char* what, const Where& where) {
    fiber.waits_for = what;
    fiber.where = where;
    Bundle::leave(fiber, how);
}

// Waits until holds(watched, value), and returns true, or false if the thread gave up.
bool watch(bool (*holds)(const void*, uint64_t), const void* watched, uint64_t value, bool can_give_up,
           const char* what, const Where& where) {
    if (holds(watched, value)) return true;
    Fiber& fiber = running();
    fiber.holds = holds;
    fiber.watched = watched;
    fiber.value = value;
    fiber.can_give_up = can_give_up;
    fiber.gave_up = false;
    wait(fiber, Status::watching, what, where);
    return !fiber.gave_up;
}

// Waits at a barrier until `expected` threads are there, and returns how many of them voted true.
unsigned arrive(Barrier& barrier, unsigned expected, bool vote, const char* what, const Where& where) {
    Fiber& fiber = running();
    Sync& sync = barrier.sync[barrier.meetings & 1];
    release(sync);
    barrier.votes += vote;
    ++barrier.arrived;
    if (barrier.arrived < expected) {
        fiber.next = barrier.waiting;
        barrier.waiting = &fiber;
        wait(fiber, Status::waiting, what, where);
    } else {
        fiber.result = barrier.votes;
        for (Fiber* other = barrier.waiting; other; other = other->next) {
            other->result = barrier.votes;
            other->status = Status::ready;
        }
        barrier.arrived = 0;
        barrier.votes = 0;
        barrier.waiting = nullptr;
        ++barrier.meetings;
    }
    acquire(sync);
    return fiber.result;
}

// The lanes of `mask` meet. Each has put what it brings into its Fiber, and gets what its source brought, or the votes
// if it has none (source 32). The last one that comes does `work`, if any, while all of them are there. If
// `synchronises`, each sees what the others wrote before.
uint64_t meet(unsigned mask, bool synchronises, const Where& where, void (*work)(Fiber* warp) = nullptr) {
    Fiber& fiber = running();
    Block& block = *fiber.owner;
    Fiber* warp = &block.fibers[fiber.thread.x - fiber.lane()];
    unsigned& waiting = block.in_warp_operation[fiber.thread.x / 32];
    const unsigned size = fiber.block_dim.x - warp->thread.x;
    if (size < 32) mask &= (1u << size) - 1;
    if (!(mask >> fiber.lane() & 1)) fail("a warp operation whose mask leaves out the thread itself", where);
    if (fiber.source < 32 && !(mask >> fiber.source & 1))
        fail("a shuffle from a lane that takes no part in it", where);
    if (const unsigned others = waiting & mask) {
        const Fiber& other = warp[__builtin_ctz(others)];
        if (other.mask != mask || !same(other.where, where))
            fail(("divergent warp: thread " + std::to_string(other.thread.x) + " is at " + text_of(other.where) +
                  (other.mask == mask ? "" : " with another mask")).c_str(), where);
    }
    fiber.mask = mask;
    waiting |= 1u << fiber.lane();
    Fiber& first = warp[__builtin_ctz(mask)];
    Sync& sync = first.sync[first.meetings & 1];
    if (synchronises) release(sync);
    if ((waiting & mask) != mask) {
        wait(fiber, Status::waiting, "its warp", where);
    } else {
        if (work) work(warp);
        uint64_t votes = 0;
        for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
            const unsigned lane = __builtin_ctz(lanes);
            votes |= (warp[lane].brought & 1) << lane;
        }
        for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
            Fiber& other = warp[__builtin_ctz(lanes)];
            other.result = other.source < 32 ? warp[other.source].brought : votes;
            other.status = Status::ready;
        }
        waiting &= ~mask;
        ++first.meetings;
    }
    if (synchronises) acquire(sync);
    return fiber.result;
}

// ---- The word of an mbarrier ----
//   bits 0-9     arrivals that the phase still lacks
//   bits 10-19   arrivals that a phase takes
//   bits 20-46   bytes that the phase still lacks, + 2^26, since bytes may come before an arrival announces them
//   bit 47       the parity of the phase
//   bits 48-63   mbarrier_mark, which says that the word is an mbarrier

constexpr uint64_t mbarrier_mark = 0x6d62ull << 48, mbarrier_marks = 0xffffull << 48, mbarrier_phase = 1ull << 47;
constexpr uint64_t mbarrier_byte = 1ull << 20, no_bytes = mbarrier_byte << 26;
constexpr uint64_t bytes_mask = mbarrier_phase - mbarrier_byte;
constexpr unsigned mbarrier_most = (1 << 10) - 1;

unsigned phase_of(uint64_t word) { return word & mbarrier_phase ? 1 : 0; }

void check_mbarrier(uint64_t word, const Where& where) {
    if ((word & mbarrier_marks) != mbarrier_mark) fail("an mbarrier before its mbarrier_init", where);
}

// After an arrival or bytes: begins the next phase if this one lacks nothing more.
void settle(uint64_t* word) {
    if ((*word & mbarrier_most) || (*word & bytes_mask) != no_bytes) return;
    *word = (*word ^ mbarrier_phase) | (*word >> 10 & mbarrier_most);
}

}  // namespace

// ---- What kernels call ----

unsigned barrier(bool vote, const char* what, const Where& where) {
    Barrier& barrier = running().owner->barrier;
    if (barrier.waiting && !same(barrier.waiting->where, where))
        fail(("divergent barrier: thread " + std::to_string(barrier.waiting->thread.x) + " is at " +
              text_of(barrier.waiting->where)).c_str(), where);
    return arrive(barrier, self->block_dim.x, vote, what, where);
}

void cluster_barrier(const Where& where) {
    Block& block = *running().owner;
    const Launch& launch = block.bundle->grid.launch;
    const size_t which = (&block - block.bundle->blocks.data()) / launch.cluster;
    arrive(block.bundle->clusters[which], launch.cluster * launch.block, false, "cluster_sync", where);
}

uint64_t shuffle(unsigned mask, uint64_t brought, unsigned source, const Where& where) {
    running().brought = brought;
    running().source = source;
    return meet(mask, false, where);
}

unsigned ballot(unsigned mask, bool vote, const Where& where) {
    running().brought = vote;
    running().source = 32;
    return meet(mask, false, where);
}

void warp_barrier(unsigned mask, const Where& where) {
    running().source = 32;
    meet(mask, true, where);
}

void mma(Format format, float* d, const uint32_t* a, const uint32_t* b, const Where& where) {
    Fiber& fiber = running();
    if (fiber.block_dim.x % 32) fail("an mma takes whole warps", where);
    fiber.fragments = {format, d, a, b};
    fiber.source = 32;
    meet(~0u, false, where, [](Fiber* warp) {
        const Fragments* lanes[32];
        for (unsigned lane = 0; lane < 32; ++lane) lanes[lane] = &warp[lane].fragments;
        multiply(lanes);
    });
}

void* shared_variable(const void* key, size_t bytes, size_t alignment, const Where& where) {
    Block& block = *running().owner;
    Bundle& bundle = *block.bundle;
    const size_t offset = bundle.grid.offset_of(key, bytes, alignment);
    if (offset == Grid::no_room)
        fail("expected at most 49152 bytes of SHARED in at most 64 variables, found more", where);
    if (gap)  // It is allowed in every block: another block may get here first, through shared_of.
        for (Block& other : bundle.blocks) allow(other.memory + offset, bytes);
    return block.memory + offset;
}

void* shared_of(void* mine, unsigned rank, const Where& where) {
    Block& block = *running().owner;
    const Grid& grid = block.bundle->grid;
    const ptrdiff_t offset = static_cast<unsigned char*>(mine) - block.memory;
    if (offset < 0 || static_cast<size_t>(offset) >= grid.shared_stride)
        fail("send: the address is not in this block's shared memory", where);
    if (rank >= grid.launch.cluster) fail("send: no block of that rank in the cluster", where);
    return (&block - self->rank + rank)->memory + offset;
}

uint64_t mbarrier_word(unsigned arrivals) {
    return mbarrier_mark | no_bytes | uint64_t{arrivals & mbarrier_most} << 10 | (arrivals & mbarrier_most);
}

void mbarrier_expect(uint64_t* word, unsigned bytes, const Where& where) {
    check_mbarrier(*word, where);
    if (!(*word & mbarrier_most)) fail("an mbarrier whose phase has all its arrivals", where);
    release(reinterpret_cast<Sync*>(word)[phase_of(*word)]);
    *word = *word - 1 + bytes * mbarrier_byte;
    settle(word);
}

void mbarrier_complete(uint64_t* word, unsigned bytes, const Where& where) {
    check_mbarrier(*word, where);
    release(reinterpret_cast<Sync*>(word)[phase_of(*word)]);
    *word -= bytes * mbarrier_byte;
    settle(word);
}

void mbarrier_wait(uint64_t* word, unsigned phase, const Where& where) {
    check_mbarrier(*word, where);
    auto over = [](const void* word, uint64_t phase) { return phase_of(*static_cast<const uint64_t*>(word)) != phase; };
    watch(over, word, phase, false, "an mbarrier", where);
    acquire(reinterpret_cast<Sync*>(word)[phase]);
}

// What a flag is at this moment.
static unsigned now(const unsigned* word) {
    return std::atomic_ref(*const_cast<unsigned*>(word)).load(std::memory_order_relaxed);
}

bool wait_flag(const unsigned* flag, unsigned value, const unsigned* stopped, const Where& where) {
    struct Watched {
        const unsigned *flag, *stopped;
    } watched = {flag, stopped};
    auto over = [](const void* watched, uint64_t value) {
        const auto& [flag, stopped] = *static_cast<const Watched*>(watched);
        return now(flag) >= value || now(stopped) > 1;
    };
    return watch(over, &watched, value, true, "a flag", where) && now(flag) >= value;
}

void delay(const Where& where) {
    // One call in `seldom` waits, for so many rounds at most that the others can get some time steps ahead.
    constexpr unsigned seldom = 8, most_rounds = 128;
    Bundle& bundle = *running().owner->bundle;
    if (bundle.grid.launch.schedule == 2 && bundle.random() % seldom == 0)
        for (unsigned rounds = bundle.random() % most_rounds; rounds; --rounds) give_way(where);
}

void give_way(const Where& where) { wait(running(), Status::gave_way, "a flag", where); }

long long nanoseconds() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void fail(const char* message, const Where& where) {
    Fiber& fiber = running();
    fiber.owner->bundle->grid.report(text_of(where) + ": block " + std::to_string(fiber.owner->number) + ", thread " +
                                   std::to_string(fiber.thread.x) + ": " + message);
    Bundle::leave(fiber, Status::waiting);
    std::abort();  // It is never reached, since no thread of a failed launch is entered again.
}

// ---- A launch ----

bool run(const Launch& launch, void (*call)(void*, const unsigned char*), void* kernel) {
    Grid grid(launch, call, kernel);
    const unsigned size = launch.cooperative ? launch.grid : launch.cluster;  // blocks in a bundle
    std::vector<unsigned> order(launch.grid / size);  // of the bundles
    for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
    if (launch.schedule == 1) std::reverse(order.begin(), order.end());
    if (launch.schedule == 2) std::shuffle(order.begin(), order.end(), std::minstd_rand(launch.seed + 1));

    const unsigned workers = std::min<unsigned>(launch.workers, order.size());
    const size_t bundle_bytes = size * grid.shared_stride, bytes = (reuses ? workers : order.size()) * bundle_bytes;
    unsigned char* memory = map(bytes);
    std::vector<std::vector<std::unique_ptr<Bundle>>> done(workers);
    std::atomic<unsigned> next{0};
    auto work = [&](unsigned worker) {
        while (!grid.failed) {
            const unsigned i = next.fetch_add(1);
            if (i >= order.size()) break;
            if (reuses) done[worker].clear();
            auto* shared = memory + (reuses ? worker : i) * bundle_bytes;
            done[worker].push_back(std::make_unique<Bundle>(grid, order[i] * size, size, shared));
            done[worker].back()->run();
        }
    };
    std::vector<std::thread> threads;
    for (unsigned worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
    work(0);
    for (auto& thread : threads) thread.join();
    acquire(grid.end);
    done.clear();
    allow(memory, bytes);
    munmap(memory, bytes);
    return grid.failed;
}

}  // namespace emulator
