/* hardware.cuh, for the emulator: it takes the place of kernels/common/hardware.cuh, where its names are explained.
 *
 * Flags are real atomics of the memory orders that their names say, so that ThreadSanitizer judges them.
 */
#pragma once

#define SHARED(type, name, count)                                                              \
    static const char name##_key = 0;                                                          \
    auto& name = *static_cast<type(*)[count]>(emulator::shared_variable(                       \
        &name##_key, sizeof(type[count]), alignof(type), Where::current()))
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::self->shared)

inline float reciprocal(float x) { return 1.0f / x; }
inline double reciprocal(double x) { return 1.0 / x; }

/* ---- Copies that run while the thread goes on ----
 *
 * The device reads a copy's source at some time between its issue and its wait. So the emulator reads it at both: if it
 * has changed in between, the launch ends. To ThreadSanitizer it is the wait that reads. Until the wait there is NaN
 * where the copy goes.
 */

template <class Number>
void copy_async(Number* to, const Number* from) {
    emulator::Copy copy = {to, from, {}, sizeof(Number), emulator::self->commits};
    std::memcpy(copy.value, from, sizeof(Number));
    emulator::self->copies.push_back(copy);
    std::memset(static_cast<void*>(to), 0xff, sizeof(Number));
}
inline void commit_copies() { ++emulator::self->commits; }
template <int Later>
void wait_copies(Where where = Where::current()) {
    auto& copies = emulator::self->copies;
    size_t done = 0;
    for (; done < copies.size() && copies[done].commit + Later < emulator::self->commits; ++done) {
        const emulator::Copy& copy = copies[done];
        std::memcpy(copy.to, copy.from, copy.bytes);
        if (std::memcmp(copy.to, copy.value, copy.bytes))
            emulator::fail("a copy's source has changed under way", where);
    }
    copies.erase(copies.begin(), copies.begin() + done);
}

/* ---- Tensor cores: see tensor.hpp ---- */

template <emulator::Format FORMAT, int NUMBERS>
struct Precision {
    static constexpr int PER_WORD = NUMBERS;
    static unsigned word(const float* numbers) {
        unsigned word = 0;
        for (int i = 0; i < NUMBERS; ++i) word |= emulator::rounded(FORMAT, numbers[i]) << 16 * i;
        return word;
    }
    static void mma(
        float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Where where = Where::current()) {
        emulator::mma(FORMAT, d, a, b, where);
    }
};
using Tf32 = Precision<emulator::Format::tf32, 1>;
using Bf16 = Precision<emulator::Format::bf16, 2>;
using Fp16 = Precision<emulator::Format::fp16, 2>;

/* ---- Flags between the blocks of a cooperative launch ---- */

inline void add_release(unsigned* flag, unsigned value, Where where = Where::current()) {
    emulator::delay(where);
    std::atomic_ref(*flag).fetch_add(value, std::memory_order_release);
}
inline unsigned load_flag(const unsigned* flag, std::memory_order order, Where where) {
    emulator::give_way(where);
    return std::atomic_ref(*const_cast<unsigned*>(flag)).load(order);
}
inline unsigned load_acquire(const unsigned* flag, Where where = Where::current()) {
    return load_flag(flag, std::memory_order_acquire, where);
}
inline unsigned load_relaxed(const unsigned* flag, Where where = Where::current()) {
    return load_flag(flag, std::memory_order_relaxed, where);
}
inline bool wait_flag(const unsigned* flag, unsigned value, const unsigned* stopped, Where where = Where::current()) {
    emulator::delay(where);
    if (!emulator::wait_flag(flag, value, stopped, where)) return false;
    std::atomic_ref(*const_cast<unsigned*>(flag)).load(std::memory_order_acquire);
    return true;
}

/* ---- Clusters ---- */

inline unsigned cluster_rank() { return emulator::self->rank; }
inline void cluster_sync(Where where = Where::current()) { emulator::cluster_barrier(where); }

/* The plain accesses to an mbarrier's word are for the sanitizers: they find an mbarrier out of bounds, or one used by
 * a thread that has not synchronised with its initialisation. Whatever changes it later is atomic on the device, and so
 * the runtime does it.
 */
inline uint64_t* mbarrier_use(unsigned long long* barrier) {
    static_cast<void>(*const_cast<volatile unsigned long long*>(barrier));
    return reinterpret_cast<uint64_t*>(barrier);
}
inline void mbarrier_init(unsigned long long* barrier, unsigned arrivals) {
    *barrier = emulator::mbarrier_word(arrivals);
}
inline void mbarrier_expect(unsigned long long* barrier, unsigned bytes, Where where = Where::current()) {
    emulator::mbarrier_expect(mbarrier_use(barrier), bytes, where);
}
template <class Number>
void send(Number* to, unsigned rank, Number value, unsigned long long* barrier, Where where = Where::current()) {
    emulator::delay(where);
    *emulator::shared_of(to, rank, where) = value;
    emulator::mbarrier_complete(mbarrier_use(emulator::shared_of(barrier, rank, where)), sizeof(Number), where);
}
template <class Number>
void send(
    Number* to, unsigned rank, Number first, Number second, unsigned long long* barrier,
    Where where = Where::current()) {
    send(to, rank, first, barrier, where);
    send(to + 1, rank, second, barrier, where);
}
inline void mbarrier_wait(unsigned long long* barrier, unsigned parity, Where where = Where::current()) {
    emulator::delay(where);
    emulator::mbarrier_wait(mbarrier_use(barrier), parity, where);
}
