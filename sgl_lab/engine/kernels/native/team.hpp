// A fixed team of threads that walk through the same code together, phase after phase.
//
// Waiting is a bounded spin, then sleep: phases follow each other within microseconds, but a team
// that waits for a thread the machine took away must not take its core as well.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace sgl {

class Team {
 public:
  explicit Team(int n_threads) : n_(std::max(1, n_threads)) {
    for (int i = 1; i < n_; ++i) threads_.emplace_back([this, i] { live(i); });
  }

  ~Team() {
    job_ = nullptr;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int size() const { return n_; }

  using Job = std::function<void(int)>;

  // Every thread, the caller's included, runs `job` with its own number below size(); returns when all have.
  void run(const Job& job) {
    job_ = &job;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    job(0);
    barrier();
  }

  // One phase of a job: f(i) for all i < n, dealt out `grain` at a time, all done on return. Every thread must call it.
  template <class F>
  void share(int n, int grain, F f) {
    for (int first; (first = next_.fetch_add(grain, std::memory_order_relaxed)) < n;)
      for (int i = first; i < std::min(n, first + grain); ++i) f(i);
    barrier();
  }

 private:
  static constexpr int kSpins = 2000;  // some 20-50 us: longer than any phase's imbalance, shorter than a time slice

  static void wait_while(std::atomic<int>& value, int old) {
    for (int i = 0; i < kSpins; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      _mm_pause();
    }
    value.wait(old, std::memory_order_acquire);
  }

  void barrier() {
    const int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < n_) return wait_while(phase_, phase);
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  }

  void live(int number) {
    for (int round = 0;;) {
      wait_while(round_, round);
      ++round;
      if (!job_) return;
      (*job_)(number);
      barrier();
    }
  }

  const int n_;
  const Job* job_ = nullptr;
  alignas(64) std::atomic<int> round_{0};
  alignas(64) std::atomic<int> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> next_{0};
  std::vector<std::thread> threads_;
};

}  // namespace sgl
