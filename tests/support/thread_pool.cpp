/* Runs many short tasks of ThreadPool and ends with status 1 where a job of one was not done exactly once.
 * tests/engines/test_thread_pool.py calls `delay` all over the pool's source, so that threads come late to each other.
 */
#include <array>
#include <chrono>
#include <thread>

inline void delay() {
    thread_local unsigned chance = 1;
    chance = chance * 1664525 + 1013904223;
    if (chance >> 29 == 0) std::this_thread::sleep_for(std::chrono::microseconds(chance >> 23 & 31));
}

#include "thread_pool.hpp"

int main() {
    ThreadPool::run(4, 0, [](long) {});
    for (long task = 0; task < 2000; ++task) {
        const long count = 1 + task * 7 % 11;
        std::array<std::atomic<int>, 16> times{};
        ThreadPool::run(4, count, [&](long job) { ++times[job]; });
        for (long job = 0; job < 16; ++job)
            if (times[job] != (job < count)) return 1;
    }
    // The other threads of the pool have no end.
    std::quick_exit(0);
}
