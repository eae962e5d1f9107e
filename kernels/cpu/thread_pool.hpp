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
        if (threads == 1 || count <= 1) {
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
        work = &what;
        jobs = count;
        size.store(threads, std::memory_order_relaxed);
        untaken.store(count, std::memory_order_release);
        const unsigned before = tasks.fetch_add(1, std::memory_order_release);
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

    /* Does jobs of the present task until all of them are taken. A thread that comes so late that another task is the
     * present one does jobs of that: it learns what the work is only when it has taken a job, and until that job is done,
     * the task does not end.
     */
    void do_jobs() {
        for (long left; (left = untaken.fetch_sub(1, std::memory_order_acq_rel)) > 0;) {
            const long count = jobs;
            (*work)(count - left);
            if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
                done.store(0, std::memory_order_relaxed);
                finished.fetch_add(1, std::memory_order_release);
                finished.notify_all();
            }
        }
    }

    unsigned made = 0;  // threads besides the caller
    // The present task.
    const Work* work = nullptr;
    long jobs = 0;                 // how many it has
    Count size{0};                 // threads that may take part
    std::atomic<long> untaken{0};  // jobs that nobody has taken; below 0 if threads found none
    std::atomic<long> done{0};     // jobs that are done
    Count tasks{0}, finished{0};   // tasks that have begun, and that have ended
};
