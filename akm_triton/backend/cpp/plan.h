// How a call goes through its maps: which tasks there are, in which batches of rows, for which threads.

#pragma once

#include <atomic>
#ifdef _OPENMP
#include <omp.h>
#else
#include <thread>
#endif

#include "maps.h"
#include "sums.h"

namespace {

// The two calls. Each computes some tasks: a task is a tile in a band of rows.

// How a call goes down its maps, and what its threads share.
template <class T> struct Plan {
  const Job& job;
  int wide;
  bool dense, whole;  // whether T(a) is a matrix; whether its first rows read the last ones
  bool direct;        // whether numbers stay as they lie in memory
  bool narrow;        // whether they go straight from z to y
  Index columns;      // vectors of a row, or where ``direct`` of a part of it, that are computed together
  Index batch, ring;  // rows

  // ``blurs`` is whether all that is wanted is one T(a) z T(b)ᵀ.
  Plan(const Job& job, int threads, bool blurs = false) : job(job), wide(job.last ? WIDE : 1) {
    const Index vectors = ceil_div<Index>(job.channels, LANES<T>);
    const auto tiles = [&](int wide) { return ceil_div<Index>(vectors, wide); };
    while (wide > 1 && (tiles(wide - 1) == tiles(wide) || tasks() < threads)) --wide;
    dense = job.height < 2 * job.radius + 1;
    whole = dense || job.down == Border::circular;
    const Index packed = ceil_div<Index>(job.width, LANES<T>);
    const bool plain = !job.adjoint || (job.down != Border::reflect && job.down != Border::replicate);
    direct = blurs && plain && !dense && !job.strides() && job.width >= 2 * job.radius + 1 &&
             (job.last || packed >= std::max<Index>(4, job.radius));  // rows of few vectors are slower so
    const Index rest = job.channels - (tiles(wide) - 1) * wide * LANES<T>;  // channels of the last tile
    narrow = direct && job.last && job.radius <= 3 && job.width >= NARROW<1> && rest >= LANES<T>;
    columns = direct && !job.last ? packed : job.width;
    if (direct && job.last && job.across != Border::circular)  // few, so that the ring stays in the first cache
      columns = part(job.width, std::max<Index>({CACHED / (4 * wide * (job.radius + 1)), 16 * job.radius, 2 * COLUMNS}));
    const Index rows = std::max<Index>({BATCH / columns, job.radius, 1});
    batch = std::min(job.height, direct ? rows : ceil_div<Index>(rows, ROWS) * ROWS);
    ring = whole ? job.height : std::min(job.height, batch * job.keep_down + 2 * job.radius);
  }
  Index tasks() const { return Tile<T>::count(job, wide) * job.bands; }
};

template <class T> struct Task {
  Tile<T> tile;
  Index band, first, stop;  // rows that are kept
  Task(const Plan<T>& plan, Index i)
      : tile(plan.job, plan.wide, i / plan.job.bands), band(i % plan.job.bands), first(part(plan.job, band)),
        stop(part(plan.job, band + 1)) {}
  static Index part(const Job& job, Index band) { return ceil_div(job.height, job.keep_down) * band / job.bands; }

  // step(row, stop, done, needed) for each batch of rows: before it, rows up to ``done`` were needed
  template <class F> void each_batch(const Plan<T>& plan, Index batch, F step) const {
    const Index h = plan.job.height, r = plan.job.radius, keep = plan.job.keep_down;
    Index done = plan.whole ? 0 : std::max<Index>(0, first * keep - r);
    for (Index row = first, end; row < stop; row = end) {
      end = std::min(row + batch, stop);
      const Index needed = plan.whole ? h : std::min(h, (end - 1) * keep + r + 1);
      step(row, end, done, needed);
      done = needed;
    }
  }
};

// The taps that a vector holds, to know whether it needs others.
template <class T> struct Held {
  Index taps[LANES<T>] = {-1};
  bool change(const Index* to) {
    if (std::equal(to, to + LANES<T>, taps)) return false;
    std::copy(to, to + LANES<T>, taps);
    return true;
  }
};

// 0, or 1 if memory ran out.
template <class F> int guarded(F f) {
  try {
    f();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// Share the tasks of a call between threads. As ``guarded``.
template <class T, class Work> int share(const Plan<T>& plan, int threads, Work work) {
  const Index tasks = plan.tasks();
  const int parts = static_cast<int>(std::min<Index>(threads, tasks));
  std::atomic<int> failed{0};
  const auto one = [&](int i) {
    thread_local Scratch scratch;
    const int status = guarded([&] {
      scratch.restart();
      work(tasks * i / parts, tasks * (i + 1) / parts, scratch);
      scratch.restart();
    });
    if (status) failed = status;
  };
  if (parts == 1) {
    one(0);
    return failed;
  }
#ifdef _OPENMP
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int i = 0; i < parts; ++i) one(i);
#else
  std::vector<std::thread> others;
  for (int i = 1; i < parts; ++i) others.emplace_back(one, i);
  one(0);
  for (std::thread& other : others) other.join();
#endif
  return failed;
}

}  // namespace
