// A team of threads that walk through the same job together, phase after phase.
//
// A phase is over when all its pieces are done, not when all threads have come by: a thread whose core
// the machine gave to somebody else holds nobody up unless it sits on a piece, and finds the phases
// that it missed closed. Waiting is a bounded spin, then sleep: phases follow each other within
// microseconds, but who waits for long must not take a core from those it waits for.
//
// An exception ends no thread: the pieces it kept from being done count as done, so that the job goes on to its end,
// and `finish` throws the first one there was.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace sgl {

class Team;

// One thread's walk through one job.
class Member {
 public:
  const int number;  // below the team's size

  int team_size() const;

  // One phase: f(i) for all i < n, all done on return. Every member makes the same calls. Dealt out in runs, which memory likes
  // long and the end of a phase short: each a share of what is left, no less than `grain`. Where pieces are few, long and unlike
  // each other they are dealt out one by one.
  template <class F>
  void share(int n, int grain, F f, bool one_by_one = false);

 private:
  friend class Team;
  Member(Team& team, int number, uint32_t phase) : number(number), team_(team), phase_(phase) {}

  Team& team_;
  uint32_t phase_;
};

class Team {
 public:
  using Job = std::function<void(Member&)>;

  // std::system_error where the machine has no more threads to give.
  explicit Team(int n_threads) : n_(std::max(1, n_threads)) {
    try {
      for (int i = 1; i < n_; ++i) threads_.emplace_back([this, i] { live(i); });
    } catch (...) {
      close();
      throw;
    }
  }

  ~Team() { close(); }

  int size() const { return n_; }

  void run(Job job) {
    begin(std::move(job));
    finish();
  }

  // Lets the other threads walk through `job`; `finish` comes before the next one.
  void begin(Job job) {
    job_ = std::move(job);
    first_phase_ = static_cast<uint32_t>(next_.load() >> 32);
    inside_.store(kOpen);
    round_.fetch_add(1);
    round_.notify_all();
  }

  // Walks along on this thread; returns when what was begun, if anything, is done and all others have left it.
  void finish() {
    if (!job_) return;
    Member me(*this, 0, first_phase_);
    walk(me);
    for (int left = inside_.fetch_sub(kOpen) - kOpen; left != 0; left = inside_.load()) wait_while(inside_, left);
    job_ = nullptr;
    if (has_failed_.exchange(false)) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  // A bounded spin, then sleep, until `value` was changed and its readers told.
  template <class T>
  static void wait_while(std::atomic<T>& value, T old) {
    for (int i = 0; i < kSpins; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      _mm_pause();
    }
    value.wait(old, std::memory_order_acquire);
  }

 private:
  friend class Member;
  static constexpr int kSpins = 2000;  // some 20-50 us: longer than any phase's imbalance, shorter than a time slice
  static constexpr int kOpen = 1 << 16;

  void close() {
    is_closing_.store(true);
    round_.fetch_add(1);
    round_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  void walk(Member& me) {
    try {
      job_(me);
    } catch (...) {
      fail();
    }
  }

  // Keeps the exception under way, if it is the first of this job.
  void fail() {
    if (!has_failed_.exchange(true)) failure_ = std::current_exception();
  }

  void live(int number) {
    for (uint32_t round = 0;;) {
      wait_while(round_, round);
      round = round_.load();
      if (is_closing_.load()) return;
      // Enter only while the job is open: its caller waits for those inside.
      int inside = inside_.load();
      while (inside >= kOpen && !inside_.compare_exchange_weak(inside, inside + 1)) {
      }
      if (inside < kOpen) continue;
      Member me(*this, number, first_phase_);
      walk(me);
      inside_.fetch_sub(1);
      inside_.notify_all();
    }
  }

  const int n_;
  Job job_;  // none between finish and begin
  uint32_t first_phase_ = 0;
  std::atomic<bool> is_closing_{false};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int> inside_{0};  // members other than the caller; kOpen more while others may enter
  alignas(64) std::atomic<uint64_t> next_{0};  // the open phase, and below it the first piece that nobody has taken
  alignas(64) std::atomic<int> done_{0};  // pieces of the open phase
  alignas(64) std::atomic<uint32_t> n_closed_{0};  // phases so far, to wait on: it may lag behind next_
  std::atomic<bool> has_failed_{false};
  std::exception_ptr failure_;  // read when all have left the job
  std::vector<std::thread> threads_;
};

inline int Member::team_size() const { return team_.size(); }

template <class F>
void Member::share(int n, int grain, F f, bool one_by_one) {
  if (n <= 0) return;
  const uint32_t phase = phase_++;
  const uint64_t high = static_cast<uint64_t>(phase) << 32;
  for (uint64_t next = team_.next_.load(std::memory_order_acquire);;) {
    if (next >> 32 != phase) return;  // closed before we came
    const int first = static_cast<int>(next & 0xffffffff);
    if (first >= n) break;
    const int last = one_by_one ? first + 1 : std::min(n, first + std::max(grain, (n - first) / (2 * team_.size())));
    if (!team_.next_.compare_exchange_weak(next, high + static_cast<uint32_t>(last), std::memory_order_acq_rel)) continue;
    try {
      for (int i = first; i < last; ++i) f(i);
    } catch (...) {
      team_.fail();
    }
    if (team_.done_.fetch_add(last - first, std::memory_order_acq_rel) + last - first == n) {
      team_.done_.store(0, std::memory_order_relaxed);
      team_.next_.store(static_cast<uint64_t>(phase + 1) << 32, std::memory_order_release);
      team_.n_closed_.fetch_add(1, std::memory_order_release);
      team_.n_closed_.notify_all();
      return;
    }
    next = team_.next_.load(std::memory_order_acquire);
  }
  for (;;) {
    const uint32_t n_closed = team_.n_closed_.load(std::memory_order_acquire);
    if (team_.next_.load(std::memory_order_acquire) >> 32 != phase) return;
    Team::wait_while(team_.n_closed_, n_closed);
  }
}

}  // namespace sgl
