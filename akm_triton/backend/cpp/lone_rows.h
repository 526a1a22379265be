// T(a) along rows of so few planes that their vectors would be empty for the most part: here a vector
// holds neighbouring pixels of one row, and taps the same number in each lane.

#pragma once

#include "plan.h"
#include "products.h"

namespace {

constexpr Index PIECE = 2048;  // pixels of a row that go through the steps together

template <class T> bool is_lone(const Job& job) {
  const bool convolves = job.width >= std::max<Index>(2 * LANES<T>, 2 * job.radius + 1);
  return !job.last && convolves && 2 * job.samples * job.channels <= LANES<T>;
}

template <class T> Vec<T> vector_at(const T* from) {
  Vec<T> x;
  std::memcpy(&x, from, BYTES);
  return x;
}

// A piece of a row and what T reaches beyond it: where it lies in the row, or if that ends, in a copy.
template <class T> struct Line {
  T* copy;

  Line(Index radius, Scratch& scratch)
      : copy(scratch.take<T>(PIECE + 2 * radius + LANES<T>) + radius) {}
  // Pixels first … stop alone, and zeros behind them up to the next vector.
  const T* load(const T* row, Index first, Index stop) const {
    const Index n = stop - first, whole = ceil_div<Index>(n, LANES<T>) * LANES<T>;
    if (n == whole) return row + first;
    std::copy(row + first, row + stop, copy);
    std::fill(copy + n, copy + whole, T(0));
    return copy;
  }
  // And those beyond them, after what is done before a convolution.
  const T* load(const T* row, Index first, Index stop, const Axis<T>& axis) const {
    const Index r = axis.radius, n = axis.size;
    const Index low = std::max<Index>(0, first - r), high = std::min(n, stop + r);
    if (low > 0 && high < n) return row + first;
    std::copy(row + low, row + high, copy + low - first);
    const auto outside = [&](Index place) {
      const Index from = axis.folded[r + place];
      copy[place - first] = from < 0 ? T(0) : row[from] * (axis.halves && (from == 0 || from == n - 1) ? 2 : 1);
    };
    for (Index i = first - r; i < 0; ++i) outside(i);
    for (Index i = n; i < stop + r; ++i) outside(i);
    if (axis.halves) axis.each_end(low, high, [&](Index end, Index) { copy[end - first] *= 2; });
    T* behind = copy + stop - first + r;  // is multiplied by zeros
    std::fill(behind, behind + LANES<T>, T(0));
    return copy;
  }
};

// y = pixels first … stop of T x
template <class T>
void sum_along(const Axis<T>& axis, const T* x, Index first, Index stop, T* y) {
  constexpr int L = LANES<T>;
  const Index r = axis.radius, n = stop - first;
  const auto sum = [&](auto vectors, Index at) {
    constexpr int V = decltype(vectors)::value;
    Vec<T> sums[V] = {};
    const T* p = x + at - r;
    for (Index k = 0; k <= 2 * r; ++k, ++p)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[v] += axis.taps[k] * vector_at(p + v * L);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const Index here = at + v * L;
      if (here + L <= n) std::memcpy(y + here, &sums[v], BYTES);
      else for (int l = 0; l < n - here; ++l) y[here + l] = sums[v][l];
    }
  };
  Index at = 0;
  for (; at + 8 * L <= n; at += 8 * L) sum(std::integral_constant<int, 8>{}, at);
  for (; at < n; at += L) sum(std::integral_constant<int, 1>{}, at);
  axis.each_end(first, stop, [&](Index end, Index inwards) {
    const T* p = x + end - first;
    T* q = y + end - first;
    if (axis.halves) *q *= T(0.5);
    if (axis.tails)
      for (Index m = 0; m < r; ++m) *q += axis.tail[m][0] * p[inwards * m];
  });
}

// As ``multiply_across``, of n pixels; each lane has those of every LANES-th.
template <class T> void multiply_along(Products<T>& products, const T* v, const T* x, Index n) {
  constexpr int L = LANES<T>;
  const Index r = products.axis.radius, places = 2 * r + 1;
  for (Index first = 0; first < places; first += COLUMNS)
    with_constant<COLUMNS>(std::min<Index>(COLUMNS, places - first), [&](auto constant) {
      constexpr int J = decltype(constant)::value;
      Vec<T> sums[J] = {};
      for (Index i = 0; i < n; i += L) {
        const Vec<T> left = vector_at(v + i);
#pragma GCC unroll 14
        for (int j = 0; j < J; ++j) sums[j] += left * vector_at(x + i + j + first - r);
      }
      for (int j = 0; j < J; ++j) products.sums[first + j] += sums[j];
    });
}

// f(plane, row of it as a place in the map, first, stop) for each piece of a task
template <class T, class F> void each_line(const Plan<T>& plan, const Task<T>& task, int plane, F f) {
  const Index w = plan.job.width;
  for (Index row = task.first; row < task.stop; ++row)
    for (Index first = 0; first < w; first += PIECE)
      f(task.tile.offset[plane] + row * w, first, std::min(w, first + PIECE));
}

template <class T> void set_all(Axis<T>& axis, const T* a, Index place) {
  Index places[LANES<T>];
  std::fill(places, places + LANES<T>, place);
  axis.set(a, places);
}

// As ``blur_rows``.
template <class T>
void blur_lone_rows(
    const Plan<T>& plan, const T* z, T* y, const T* a, Index from, Index to, Scratch& scratch) {
  const Job& job = plan.job;
  Axis<T> axis(job.width, job.radius, job.across, job.adjoint, true, scratch);
  const Line<T> x(job.radius, scratch);
  const Index step = job.keep_across, kept = ceil_div(job.width, step);
  T* room = step > 1 ? scratch.take<T>(PIECE) : nullptr;
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    for (int l = 0; l < task.tile.planes; ++l) {
      set_all(axis, a, task.tile.taps[l]);
      each_line(plan, task, l, [&](Index row, Index first, Index stop) {
        const T* here = x.load(z + row, first, stop, axis);
        if (step == 1) return sum_along(axis, here, first, stop, y + row + first);
        sum_along(axis, here, first, stop, room);  // all: a vector of those that are kept would cost as much
        T* to = y + row / job.width * kept;
        for (Index k = ceil_div(first, step); k * step < stop; ++k) to[k] = room[k * step - first];
      });
    }
  }
}

// As ``gradients_of_rows``, of each plane.
template <class T>
void gradients_of_lone_rows(
    const Plan<T>& plan, const T* g, const T* z, T* dz, const T* a, T* grads, Index from, Index to,
    Scratch& scratch) {
  const Job& job = plan.job;
  const Index w = job.width, r = job.radius;
  Axis<T> back(w, r, job.across, true, true, scratch);
  Products<T> of_a(Axis<T>(w, r, job.across, false, true, scratch), scratch);
  const Line<T> x(r, scratch), v(r, scratch);
  Vec<T>* by_taps = scratch.take<Vec<T>>(r + 1);
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    for (int l = 0; l < task.tile.planes; ++l) {
      if (dz) set_all(back, a, task.tile.taps[l]);
      of_a.clear();
      each_line(plan, task, l, [&](Index row, Index first, Index stop) {
        const T* here = x.load(z + row, first, stop, of_a.axis);
        multiply_along(of_a, v.load(g + row, first, stop), here, stop - first);
        if (dz) sum_along(back, v.load(g + row, first, stop, back), first, stop, dz + row + first);
      });
      of_a.by_taps(by_taps);
      T* sums = grads + (task.band * job.samples * job.channels + task.tile.plane[l]) * (r + 1);
      for (Index m = 0; m <= r; ++m) {
        sums[m] = 0;
        for (int lane = 0; lane < LANES<T>; ++lane) sums[m] += by_taps[m][lane];
      }
    }
  }
}

}  // namespace
