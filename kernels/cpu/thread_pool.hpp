/* cpu/thread_pool.hpp: the threads that work on one task together, and sleep between tasks.
 * The calling thread is one of them. A thread that waits, for a task or for the others, looks again and again for a
 * moment, since in training the next task comes at once. Then it sleeps, so that it is in nobody's way.
 * While they work, numbers below the smallest normal one are 0 for them (subnormals.hpp).
 */
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <pthread.h>

#include "cpu/subnormals.hpp"

class ThreadPool {
   public:
    using Work = std::function<void(int thread, ThreadPool& pool)>;

    /* Runs work(thread, pool) for thread = 0..size-1 at the same time, and returns when all of them are done. Of two
     * callers the second waits for the first one's work to be done.
     */
    static void run(int size, const Work& work) {
        // A fork waits until no task is under way, so that the child does not inherit a lock that nobody will open.
        static const int registered =
            pthread_atfork([] { one_at_a_time.lock(); }, [] { one_at_a_time.unlock(); }, after_fork);
        (void)registered;
        const std::lock_guard lock(one_at_a_time);
        if (!pool) pool = new ThreadPool;
        pool->start(size, work);
    }

    /* A barrier, for use in `work`: returns when all threads have called it, and a thread then sees all that the others
     * wrote before.
     */
    void meet() {
        // Both are read before this thread arrives: once the last one has, the next task may change them.
        const unsigned old = meetings.load(std::memory_order_relaxed), expected = size;
        const unsigned here = arrived.fetch_add(1, std::memory_order_acq_rel) + 1;
        if (here < expected) return wait(meetings, old);
        arrived.store(0, std::memory_order_relaxed);
        meetings.fetch_add(1, std::memory_order_release);
        meetings.notify_all();
    }

   private:
    using Count = std::atomic<unsigned>;
    static constexpr int MOST_LOOKS = 4000;  // of a thread that waits, before it sleeps

    static inline std::mutex one_at_a_time;
    static inline ThreadPool* pool = nullptr;  // made by the first call, and never destroyed

    /* In the child of a fork, which has none of the pool's threads: its first call makes another pool. */
    static void after_fork() {
        pool = nullptr;
        one_at_a_time.unlock();
    }

    /* Returns when `count` is no longer `old`. */
    static void wait(const Count& count, unsigned old) {
        for (int look = 0; look < MOST_LOOKS; ++look) {
            if (count.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            asm volatile("yield");
#endif
        }
        count.wait(old, std::memory_order_acquire);
    }

    /* Makes the threads that are missing, gives every thread the work, does thread 0's itself, and waits for the
     * others.
     */
    void start(unsigned count, const Work& what) {
        size = count;
        work = &what;
        while (orders.size() + 1 < size) {
            auto order = std::make_unique<Count>(0);
            std::thread(&ThreadPool::serve, this, static_cast<int>(orders.size() + 1), order.get()).detach();
            orders.push_back(std::move(order));
        }
        for (unsigned other = 1; other < size; ++other) {
            orders[other - 1]->fetch_add(1, std::memory_order_release);
            orders[other - 1]->notify_one();
        }
        const FlushSubnormals flush;
        what(0, *this);
        meet();
    }

    /* What another thread than the caller does for ever: it waits for an order, works, and meets the others. */
    void serve(int thread, const Count* order) {
        const FlushSubnormals flush;
        for (unsigned done = 0;; ++done) {
            wait(*order, done);
            (*work)(thread, *this);
            meet();
        }
    }

    std::vector<std::unique_ptr<Count>> orders;  // orders[i]: how many tasks thread i + 1 has been given
    const Work* work = nullptr;                  // the present task's
    unsigned size = 1;                           // threads of the present task
    Count arrived{0};                            // threads that have come to the present meeting
    Count meetings{0};                           // meetings that are over
};
