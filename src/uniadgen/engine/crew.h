// Threads that share the parts of a job, and wait for nobody who has not begun one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <unistd.h>

// Of OpenMP, if torch brought it along: its threads end, and come back when torch needs them.
extern "C" int omp_pause_resource_all(int kind) __attribute__((weak));

namespace {

constexpr int PATIENCE = 2000;  // turns that a thread waits awake for more to do

class Crew {
   public:
    explicit Crew(int threads) : process(getpid()), size(threads) {
        for (int i = 1; i < threads; i++) std::thread([this] { serve(); }).detach();
    }

    void each(int64_t count, const std::function<void(int64_t)>& task) {
        if (size == 1 || count == 1) {
            for (int64_t i = 0; i < count; i++) task(i);
            return;
        }
        job = &task;
        first = limit.load();
        limit.store(first + count);
        limit.notify_all();
        work();
        for (int i = 0; done.load() != limit.load(); i++) rest(i);
    }

    const int process, size;
    std::mutex taken;
    std::atomic<bool> awake{false};  // whoever has taken it has more to do soon

   private:
    // Tasks are numbered through all that is ever done; the number is taken before the job is looked at.
    void work() {
        for (int64_t task = next.load(); task < limit.load();)
            if (next.compare_exchange_weak(task, task + 1)) {
                (*job)(task - first);
                done.fetch_add(1);
                task = next.load();
            }
    }

    void serve() {
        for (;;) {
            const int64_t seen = limit.load();
            work();
            for (int i = 0; limit.load() == seen && (i < PATIENCE || awake.load()); i++) rest(i);
            limit.wait(seen);
        }
    }

    static void rest(int turns) {
        if (turns % 64 == 63) std::this_thread::yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    std::atomic<int64_t> next{0}, limit{0}, done{0};
    const std::function<void(int64_t)>* job = nullptr;
    int64_t first = 0;
};

// Lent to one caller at a time; threads do not survive a fork, so a child gets its own. Those of before are left asleep.
Crew* crew_of(int threads) {
    static std::mutex guard;
    static Crew* crew = nullptr;
    const std::lock_guard<std::mutex> lock(guard);
    if (!crew || crew->process != getpid() || crew->size != threads) crew = new Crew(threads);
    return crew;
}

// The crew's threads stay awake as long as these are there.
class Hands {
   public:
    explicit Hands(int threads) : lent(threads > 1 ? crew_of(threads) : nullptr) {
        if (lent && !lent->taken.try_lock()) lent = nullptr;
        if (!lent) return;
        lent->awake = true;
        // Those of torch's last operation would wait awake for the next one, on the cores that the crew needs.
        if (omp_pause_resource_all) omp_pause_resource_all(1);
    }
    ~Hands() {
        if (!lent) return;
        lent->awake = false;
        lent->taken.unlock();
    }
    // In a few parts for each thread, so that one who comes late leaves the rest to the others.
    template <class Task>
    void each(int64_t count, Task task) {
        if (!lent) return task(0, count);
        const int64_t part = std::max<int64_t>(1, count / (4 * lent->size));
        lent->each((count + part - 1) / part, [&](int64_t i) { task(i * part, std::min((i + 1) * part, count)); });
    }

   private:
    Crew* lent;
};

}  // namespace
