// Threads that share the parts of a job. Until the call ends, they wait for nobody who has not begun one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <unistd.h>
#include <vector>

// Of the OpenMP that torch has brought along. Its threads wait awake for torch's next operation, on the cores that ours
// would need: so they are ours meanwhile.
extern "C" void GOMP_parallel(void (*run)(void*), void* data, unsigned threads, unsigned flags) __attribute__((weak));

namespace {

const auto home = getpid();  // OpenMP's threads do not survive a fork

class Hands {
   public:
    explicit Hands(int threads) : threads(threads) {}

    // In a few parts for each thread, so that one who comes late leaves the rest to the others.
    template <class Task>
    void each(int64_t count, Task task) {
        if (threads == 1 || count == 1) return task(0, count);
        const int64_t part = std::max<int64_t>(1, count / (4 * threads));
        share((count + part - 1) / part, [&](int64_t i) { task(i * part, std::min((i + 1) * part, count)); });
    }

    // Helps, awake, until there is nothing more to do.
    void help() {
        for (int turns = 0; !ended.load(); rest(turns++)) work();
    }
    void end() { ended.store(true); }

   private:
    void share(int64_t count, const std::function<void(int64_t)>& task) {
        job = &task;
        first = limit.load();
        limit.store(first + count);
        work();
        for (int turns = 0; done.load() != limit.load(); turns++) rest(turns);
    }

    // Tasks are numbered through all that is ever done; the number is taken before the job is looked at.
    void work() {
        for (int64_t task = next.load(); task < limit.load();)
            if (next.compare_exchange_weak(task, task + 1)) {
                (*job)(task - first);
                done.fetch_add(1);
                task = next.load();
            }
    }

    static void rest(int turns) {
        if (turns % 64 == 63) std::this_thread::yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    const int threads;
    std::atomic<bool> ended{false};
    std::atomic<int64_t> next{0}, limit{0}, done{0};
    const std::function<void(int64_t)>* job = nullptr;
    int64_t first = 0;
};

// Calls `use` with so many threads at hand.
template <class Use>
void with_hands(int threads, Use use) {
    Hands hands(threads);
    if (threads == 1) return use(hands);
    struct Call {
        Hands& hands;
        Use& use;
        std::thread::id caller;
    } call{hands, use, std::this_thread::get_id()};
    const auto run = [](void* data) {
        Call& call = *static_cast<Call*>(data);
        if (std::this_thread::get_id() != call.caller) return call.hands.help();
        call.use(call.hands);
        call.hands.end();
    };
    if (GOMP_parallel && getpid() == home) return GOMP_parallel(run, &call, threads, 0);
    std::vector<std::thread> others;
    for (int i = 1; i < threads; i++) others.emplace_back(run, &call);
    run(&call);
    for (std::thread& other : others) other.join();
}

}  // namespace
