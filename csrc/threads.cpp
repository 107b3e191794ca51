#include "threads.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace farthing {

namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins for the usual wait (a few microseconds), then gives the core away: where other programs want it too, the member
// that is waited for may be waiting for this very core. Spinning longer cost 20 ms a step on a loaded machine.
template <class Ready>
inline void spin_until(Ready&& ready) {
  for (int i = 0; !ready(); ++i) {
    if (i < 300)
      pause();
    else
      std::this_thread::yield();
  }
}

constexpr int kSpinsBeforeSleep = 20000;  // about 0.3 ms: longer than the gap between two steps of a busy engine

}  // namespace

struct Team::State {
  explicit State(int count) : count(count) {
    for (auto& of_phase : counters) of_phase.reset(new Counter[static_cast<size_t>(count)]);
  }
  const int count;

  // Handing out work: `epoch` counts calls of run(); a member that sees it move runs `body`.
  alignas(64) std::atomic<uint64_t> epoch{0};
  void (*body)(Worker&, void*) = nullptr;
  void* context = nullptr;
  std::atomic<bool> is_stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  int num_asleep = 0;
  alignas(64) std::atomic<int> num_done{0};

  // Barrier: the last to arrive opens the next generation.
  alignas(64) std::atomic<int> num_arrived{0};
  alignas(64) std::atomic<uint64_t> generation{0};

  // for_each number p counts in counters[p % 3], for_each_near in the one of each member; while it runs, those of p + 1
  // are idle and are set to zero.
  struct alignas(64) Counter {
    std::atomic<int64_t> value{0};
  };
  std::unique_ptr<Counter[]> counters[3];

  void clear(uint64_t phase) {
    for (int i = 0; i < count; ++i) counters[phase % 3][static_cast<size_t>(i)].value.store(0, std::memory_order_relaxed);
  }

  std::vector<std::thread> threads;
};

void Worker::barrier() {
  if (count == 1) return;
  Team::State& s = *team_.state_;
  const uint64_t generation = s.generation.load(std::memory_order_relaxed);
  if (s.num_arrived.fetch_add(1, std::memory_order_acq_rel) == count - 1) {
    s.num_arrived.store(0, std::memory_order_relaxed);
    s.generation.store(generation + 1, std::memory_order_release);
  } else {
    spin_until([&] { return s.generation.load(std::memory_order_acquire) != generation; });
  }
}

std::atomic<int64_t>& Worker::counter_of(int member) {
  return team_.state_->counters[phase_ % 3][static_cast<size_t>(member)].value;
}

void Worker::finish() {
  if (index == 0) team_.state_->clear(phase_ + 1);
  ++phase_;
  barrier();
}

Team::Team(int count) : state_(new State(count)) {
  for (int i = 1; i < count; ++i) {
    state_->threads.emplace_back([this, i] {
      State& s = *state_;
      uint64_t seen = 0;
      for (;;) {
        auto has_work = [&] { return s.epoch.load(std::memory_order_acquire) != seen; };
        for (int spins = 0; !has_work() && spins < kSpinsBeforeSleep; ++spins) pause();
        if (!has_work()) {
          std::unique_lock<std::mutex> lock(s.mutex);
          ++s.num_asleep;
          s.wake.wait(lock, has_work);
          --s.num_asleep;
        }
        seen = s.epoch.load(std::memory_order_acquire);
        if (s.is_stopping.load(std::memory_order_relaxed)) return;
        Worker worker(*this, i, s.count);
        s.body(worker, s.context);
        s.num_done.fetch_add(1, std::memory_order_release);
      }
    });
  }
}

Team::~Team() {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->is_stopping.store(true, std::memory_order_relaxed);
    state_->epoch.fetch_add(1, std::memory_order_release);
  }
  state_->wake.notify_all();
  for (std::thread& t : state_->threads) t.join();
}

int Team::count() const { return state_->count; }

void Team::run(void (*body)(Worker&, void*), void* context) {
  State& s = *state_;
  Worker self(*this, 0, s.count);
  for (uint64_t phase = 0; phase < 3; ++phase) s.clear(phase);
  if (s.count == 1) {
    body(self, context);
    return;
  }
  s.body = body;
  s.context = context;
  s.num_done.store(0, std::memory_order_relaxed);
  bool is_anyone_asleep;
  {
    std::lock_guard<std::mutex> lock(s.mutex);  // a member that is about to sleep sees the new epoch or is counted
    s.epoch.fetch_add(1, std::memory_order_release);
    is_anyone_asleep = s.num_asleep > 0;
  }
  if (is_anyone_asleep) s.wake.notify_all();
  body(self, context);
  spin_until([&] { return s.num_done.load(std::memory_order_acquire) == s.count - 1; });
}

}  // namespace farthing
