/* cpu/thread_pool.hpp: the threads that work on one task together, and sleep between tasks.
 * A task is a number of jobs. The calling thread does one job after the other, and so does every other thread that comes
 * in time. Nobody waits for a thread that has no job, because it sleeps or because another process has its processor.
 * Who does a job must not change what it computes.
 * A thread that waits, for a task or for the jobs of others, looks again and again for a moment, since in training the
 * next task comes at once. Then it sleeps, so that it is in nobody's way.
 * While they work, numbers below the smallest normal one are 0 for them (subnormals.hpp).
 */
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include <pthread.h>

#include "cpu/subnormals.hpp"

class ThreadPool {
   public:
    using Work = std::function<void(long job)>;

    /* Runs work(job) once for each job = 0..count-1, on at most `threads` threads, and returns when all are done. Of
     * two callers the second waits for the first one's work to be done.
     */
    static void run(unsigned threads, long count, const Work& work) {
        // A fork waits until no task is under way, so that the child does not inherit a lock that nobody will open.
        static const int registered =
            pthread_atfork([] { one_at_a_time.lock(); }, [] { one_at_a_time.unlock(); }, after_fork);
        (void)registered;
        const std::lock_guard lock(one_at_a_time);
        const FlushSubnormals flush;
        if (threads == 1 || count == 1) {
            for (long job = 0; job < count; ++job) work(job);
            return;
        }
        if (!pool) pool = new ThreadPool;
        pool->start(threads, count, work);
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

    /* Makes the threads that are missing, announces the task, works on it, and waits until its last job is done. */
    void start(unsigned threads, long count, const Work& what) {
        for (; made + 1 < threads; ++made) std::thread(&ThreadPool::serve, this, made + 1).detach();
        work.store(&what, std::memory_order_relaxed);
        size.store(threads, std::memory_order_relaxed);
        jobs.store(count, std::memory_order_relaxed);
        const unsigned before = tasks.load(std::memory_order_relaxed);
        next.store(std::uint64_t{before + 1} << 32, std::memory_order_release);
        tasks.fetch_add(1, std::memory_order_release);
        tasks.notify_all();
        do_jobs();
        wait(finished, before);
    }

    /* What another thread than the caller does for ever; it takes part in a task of more threads than its number. */
    void serve(unsigned thread) {
        const FlushSubnormals flush;
        for (unsigned seen = 0;;) {
            wait(tasks, seen);
            seen = tasks.load(std::memory_order_acquire);
            if (thread < size.load(std::memory_order_relaxed)) do_jobs();
        }
    }

    /* Does jobs of the present task until all of them are taken. */
    void do_jobs() {
        std::uint64_t ticket = next.load(std::memory_order_acquire);
        for (;;) {
            // These may be the next task's already, but then `next` has changed since it was read, and no job is taken.
            const Work* const what = work.load(std::memory_order_relaxed);
            const long count = jobs.load(std::memory_order_relaxed), job = static_cast<std::uint32_t>(ticket);
            if (job >= count) return;
            if (!next.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire))
                continue;
            (*what)(job);
            if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
                done.store(0, std::memory_order_relaxed);
                finished.fetch_add(1, std::memory_order_release);
                finished.notify_all();
            }
            ticket = next.load(std::memory_order_acquire);
        }
    }

    unsigned made = 0;  // threads besides the caller
    // The present task: its work, how many threads may take part, and how many jobs it has.
    std::atomic<const Work*> work{nullptr};
    Count size{0};
    std::atomic<long> jobs{0};
    std::atomic<std::uint64_t> next{0};  // the task's number, in the upper half, and the job that is taken next
    std::atomic<long> done{0};           // jobs of the task that are done
    Count tasks{0}, finished{0};         // tasks that have begun, and that have ended
};
