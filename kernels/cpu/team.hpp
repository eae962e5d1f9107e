/* cpu/team.hpp: threads that work on one task together, and sleep between tasks.
 * The caller is one of them. They wait awake for a moment, since in training the next task comes at once, and then
 * asleep, so that they are in nobody's way.
 */
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <pthread.h>

class Team {
   public:
    using Work = std::function<void(int thread, Team& team)>;

    /* work(thread, team) for thread = 0..size-1 at the same time; returns when all of them are done. */
    static void run(int size, const Work& work) {
        static const int registered = pthread_atfork([] { one_at_a_time.lock(); }, [] { one_at_a_time.unlock(); }, after_fork);
        (void)registered;
        const std::lock_guard lock(one_at_a_time);
        if (!team) team = new Team;
        team->start(size, work);
    }

    /* In `work`: wait for all of them, and see what they have written. */
    void meet() {
        const unsigned old = meetings.load(std::memory_order_relaxed), expected = size;  // others may be past it soon
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < expected) return wait(meetings, old);
        arrived.store(0, std::memory_order_relaxed);
        meetings.fetch_add(1, std::memory_order_release);
        meetings.notify_all();
    }

   private:
    using Count = std::atomic<unsigned>;
    static constexpr int AWAKE = 4000;  // looks before it sleeps

    static inline std::mutex one_at_a_time;
    static inline Team* team = nullptr;  // for as long as the process lives

    /* In the new process, which has none of the threads. */
    static void after_fork() {
        team = nullptr;
        one_at_a_time.unlock();
    }

    static void wait(const Count& count, unsigned old) {
        for (int look = 0; look < AWAKE; ++look) {
            if (count.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            asm volatile("yield");
#endif
        }
        count.wait(old, std::memory_order_acquire);
    }

    void start(unsigned count, const Work& what) {
        size = count, work = &what;
        while (orders.size() + 1 < size) {
            auto order = std::make_unique<Count>(0);
            std::thread(&Team::serve, this, static_cast<int>(orders.size() + 1), order.get()).detach();
            orders.push_back(std::move(order));
        }
        for (unsigned other = 1; other < size; ++other) {
            orders[other - 1]->fetch_add(1, std::memory_order_release);
            orders[other - 1]->notify_one();
        }
        what(0, *this);
        meet();
    }

    void serve(int thread, const Count* order) {
        for (unsigned done = 0;; ++done) {
            wait(*order, done);
            (*work)(thread, *this);
            meet();
        }
    }

    std::vector<std::unique_ptr<Count>> orders;  // how many tasks each of the other threads was given
    const Work* work = nullptr;
    unsigned size = 1;
    Count arrived{0}, meetings{0};
};
