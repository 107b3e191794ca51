// A team of threads that runs one function on every member, spins briefly between calls and sleeps after.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace farthing {

class Team;

// One member's view of the team, valid while the team runs a function. All members must make the same sequence of
// barrier() and for_each() calls.
class Worker {
 public:
  int index;
  int count;

  void barrier();

  // Calls body(i) once for each i in [0, n), on whichever member is free, then waits for all. Which member runs an i
  // must not change its result.
  template <class F>
  void for_each(int64_t n, F&& body) {
    std::atomic<int64_t>& next = counter();
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(i);
    finish();
  }

  // The same, but every member begins with its own contiguous share and helps the others after. Where operation after
  // operation runs over the same tokens, what a member wrote is then in its own caches when it reads it.
  template <class F>
  void for_each_near(int64_t n, F&& body) {
    for (int k = 0; k < count; ++k) {
      const int whose = (index + k) % count;
      const int64_t begin = n * whose / count, end = n * (whose + 1) / count;
      std::atomic<int64_t>& next = counter_of(whose);
      for (int64_t i; (i = begin + next.fetch_add(1, std::memory_order_relaxed)) < end;) body(i);
    }
    finish();
  }

 private:
  friend class Team;
  Worker(Team& team, int index, int count) : index(index), count(count), team_(team) {}
  std::atomic<int64_t>& counter() { return counter_of(0); }
  std::atomic<int64_t>& counter_of(int member);
  void finish();
  Team& team_;
  uint64_t phase_ = 0;
};

class Team {
 public:
  explicit Team(int count);  // count >= 1, the caller of run() included
  ~Team();
  int count() const;
  // Runs body(worker) on every member, the calling thread being member 0. The body must not throw. One caller at a time.
  void run(void (*body)(Worker&, void*), void* context);
  template <class F>
  void run(F&& body) {
    run([](Worker& w, void* f) { (*static_cast<std::remove_reference_t<F>*>(f))(w); }, const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  friend class Worker;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace farthing
