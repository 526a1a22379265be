// T(taps) along rows and down them.

#pragma once

#include <limits>

#include "maps.h"
#include "sums.h"

namespace {

// The place in a map of n pixels that stands for place i, −1 for none.
Index fold(Index i, Index n, Border border) {
  const auto remainder = [](Index a, Index b) { return a % b + (a % b < 0 ? b : 0); };
  if (i >= 0 && i < n) return i;
  switch (border) {
    case Border::zeros: return -1;
    case Border::replicate: return i < 0 ? 0 : n - 1;
    case Border::circular: return remainder(i, n);
    case Border::symmetric: i = remainder(i, 2 * n); return std::min(i, 2 * n - 1 - i);
    case Border::reflect:
      if (n == 1) return 0;
      i = remainder(i, 2 * n - 2);
      return std::min(i, 2 * n - 2 - i);
  }
  return -1;
}

// T or Tᵀ of one axis, for the planes of a vector.
//
// As a convolution, Tᵀ is T for most borders. For "reflect", whose two ends have one image fewer,
// Tᵀ = D T D⁻¹ with D = ½ at the ends and 1 elsewhere. For "replicate" it is the convolution with zeros
// outside, and the two ends also get what replicated them.
template <class T> struct Axis {
  Index size, radius, step, kept;  // of the output every step-th pixel is kept
  bool dense, halves, tails, transposed;
  Index* folded;  // place i at folded[radius + i], from −radius to size + radius
  Index* phased = nullptr;  // with a step: where in a row that is split by it lies what tap n needs for output 0
  Vec<T>*one, *taps = nullptr, *matrix = nullptr, *tail = nullptr;

  // A dense matrix is (output, input), or with ``inputs_first`` (input, output). A step is for T alone.
  Axis(Index size, Index radius, Border border, bool adjoint, bool inputs_first, Scratch& scratch, Index step = 1)
      : size(size), radius(radius), step(step), kept(ceil_div(size, step)), dense(size < 2 * radius + 1),
        halves(!dense && adjoint && border == Border::reflect),
        tails(!dense && adjoint && border == Border::replicate),
        transposed(adjoint != inputs_first), folded(scratch.take<Index>(size + 2 * radius)),
        one(scratch.take<Vec<T>>(radius + 1)) {
    for (Index i = 0; i < size; ++i) folded[radius + i] = i;
    for (Index n = 0; n < radius; ++n)
      for (const Index i : {n - radius, size + n}) folded[radius + i] = fold(i, size, tails ? Border::zeros : border);
    if (dense) {
      matrix = scratch.take<Vec<T>>(size * size);
    } else {
      taps = scratch.take<Vec<T>>(2 * radius + 3) + 1;
      tail = scratch.take<Vec<T>>(radius);
    }
    if (dense || step == 1) return;
    phased = scratch.take<Index>(2 * radius + 1);
    for (Index n = 0; n < 2 * radius + 1; ++n) phased[n] = phase(n);
  }
  Index phase(Index place) const { return place % step * ceil_div(size + 2 * radius, step) + place / step; }

  // Take the taps that begin at these places.
  void set(const T* table, const Index* places) {
    gather(table, places, radius + 1, one);
    arrange();
  }
  // The same in every lane
  void set(const T* table, Index place) {
    for (Index n = 0; n <= radius; ++n) one[n] = table[place + n] - Vec<T>{};
    arrange();
  }

  void arrange() {
    drop_tiny();
    if (dense) {
      std::fill(matrix, matrix + size * size, Vec<T>{});
      const Index by_input = transposed ? kept : 1;
      for (Index i = 0; i < kept; ++i) {
        Vec<T>* entries = matrix + (transposed ? i : i * size);
        const Index* from = folded + radius + i * step;
        for (Index n = -radius; n <= radius; ++n)
          if (from[n] >= 0) entries[from[n] * by_input] += one[std::abs(n)];
      }
      return;
    }
    taps[-1] = taps[2 * radius + 1] = Vec<T>{};
    for (Index n = -radius; n <= radius; ++n) taps[radius + n] = one[std::abs(n)];
    Vec<T> sum{};
    for (Index n = radius; n > 0; --n) tail[n - 1] = sum += one[n];
  }

  // A narrow Gaussian ends in taps, and begins its sums in products, that are subnormal numbers, for which
  // processors take a hundred times as long. Below ε³ of the middle one they change nothing.
  void drop_tiny() {
    constexpr T eps = std::numeric_limits<T>::epsilon(), least = std::numeric_limits<T>::min();
    const Vec<T> middle = one[0] < 0 ? -one[0] : one[0], relative = middle * (eps * eps * eps);
    const Vec<T> most = relative < least ? Vec<T>{} + least : relative;
    for (Index n = 1; n <= radius; ++n) one[n] = (one[n] < most) & (one[n] > -most) ? Vec<T>{} : one[n];
  }

  // f(i, j, n) for each tap n by which T takes input j to output i
  template <class F> void each_entry(F f) const {
    for (Index i = 0; i < size; ++i)
      for (Index n = -radius; n <= radius; ++n)
        if (const Index j = folded[radius + i + n]; j >= 0) f(i, j, std::abs(n));
  }
  // f(end, direction inwards) for each end of the axis that lies in first … stop
  template <class F> void each_end(Index first, Index stop, F f) const {
    if (first == 0) f(0, 1);
    if (stop == size) f(size - 1, -1);
  }
  // Rows along this axis, with room for their borders.
  Rows<T> rows(Index count, Scratch& scratch) const {
    const Index border = dense ? 0 : radius, stride = size + 2 * border;
    return {scratch.take<Vec<T>>(count * stride) + border, stride};
  }
};

template <class T> void scale(Vec<T>* x, Index n, T factor) {
  for (Index i = 0; i < n; ++i) x[i] *= factor;
}

// What is done to rows along the axis before a convolution sums them.
template <class T> void enter(const Axis<T>& axis, Rows<T> x, Index rows) {
  if (axis.halves)
    for (Index i = 0; i < rows; ++i) x[i][0] *= 2, x[i][axis.size - 1] *= 2;
}

// y[i] = pixels first … stop of T x[i] along rows. Those of x begin with the first too, and have what the
// taps reach beyond.
template <class T>
void sum_across(const Axis<T>& axis, Rows<T> x, Index rows, Index first, Index stop, Rows<T> y) {
  const Index w = axis.size, r = axis.radius, n = stop - first;
  if (axis.dense)
    return sum_rows<T, ROWS>(y, rows, axis.kept, {x.at, x.stride, 1}, w, Strided<T>{axis.matrix, 0, axis.kept});
  sum_rows<T, 1>(y, rows, n, {axis.taps, 0, 1}, 2 * r + 1, Strided<T>{x.at - r, x.stride, 1});
  if (axis.halves || axis.tails)
    axis.each_end(first, stop, [&](Index end, Index inwards) {
      for (Index i = 0; i < rows; ++i) {
        Vec<T>*p = x[i] + end - first, *q = y[i] + end - first;
        if (axis.halves) *q *= T(0.5);
        if (axis.tails)
          for (Index m = 0; m < r; ++m) *q += axis.tail[m] * p[inwards * m];
      }
    });
}

// y[i] = T x[i] along rows; x gets its borders. With a step, ``room`` takes a row with borders.
template <class T> void across(const Axis<T>& axis, Rows<T> x, Index rows, Rows<T> y, Vec<T>* room = nullptr) {
  const Index w = axis.size, r = axis.radius;
  for (Index i = 0; i < rows && !axis.dense; ++i) {
    Vec<T>* p = x[i];
    for (Index n = 0; n < r; ++n) {
      const Index before = axis.folded[n], after = axis.folded[r + w + n];
      p[n - r] = before < 0 ? Vec<T>{} : p[before];
      p[w + n] = after < 0 ? Vec<T>{} : p[after];
    }
  }
  if (axis.dense || axis.step == 1) return sum_across(axis, x, rows, 0, w, y);
  // A row is split into as many as the step: what a tap needs for one output after another lies side by side.
  for (Index i = 0; i < rows; ++i) {
    for (Index first = 0; first < axis.step; ++first) {
      Vec<T>* to = room + axis.phase(first);
      for (Index place = first; place < w + 2 * r; place += axis.step) *to++ = x[i][place - r];
    }
    sum_rows<T, 1>({y[i], 0}, 1, axis.kept, {axis.taps, 0, 1}, 2 * r + 1, Placed<T>{room, axis.phased});
  }
}

// Rows of a map on their way down an axis: the last ones that T still needs.
template <class T> struct Ring : Rows<T> {
  Index count;
  const Vec<T>** extended;  // the row for place i at extended[radius + i]

  Ring(const Axis<T>& axis, Index count, Index width, Scratch& scratch)
      : Rows<T>{scratch.take<Vec<T>>(count * width), width}, count(count) {
    Vec<T>* zero = scratch.take<Vec<T>>(width);
    std::fill(zero, zero + width, Vec<T>{});
    const Index places = axis.size + 2 * axis.radius;
    extended = scratch.take<const Vec<T>*>(places);
    for (Index i = 0; i < places; ++i)
      extended[i] = axis.folded[i] < 0 ? zero : (*this)[axis.folded[i]];
  }
  Vec<T>* operator[](Index row) const { return this->at + row % count * this->stride; }
  Rows<T> from(Index row) const { return {(*this)[row], this->stride}; }
  // the number of rows from ``first`` on, up to ``stop``, that lie one after another
  Index run(Index first, Index stop) const { return std::min(stop - first, count - first % count); }
};

// What is done to rows that enter the ring before a convolution sums them.
template <class T> void enter(const Axis<T>& axis, const Ring<T>& ring, Index first, Index rows) {
  if (axis.halves)
    axis.each_end(first, first + rows, [&](Index end, Index) { scale<T>(ring[end], ring.stride, 2); });
}

// y = rows first … stop of T times the rows in the ring, counted as they are kept.
template <class T>
void down(const Axis<T>& axis, const Ring<T>& ring, Index first, Index stop, Rows<T> y) {
  const Index w = ring.stride, r = axis.radius, h = axis.size, rows = stop - first;
  const Vec<T>* const* x = ring.extended;
  if (axis.dense)
    return sum_rows<T, ROWS>(y, rows, w, {axis.matrix + first * h, h, 1}, h, Listed<T>{x + r, 0});
  if (axis.step > 1)
    return sum_rows<T, 1>(y, rows, w, {axis.taps, 0, 1}, 2 * r + 1, Listed<T>{x + first * axis.step, axis.step});
  sum_rows<T, ROWS>(y, rows, w, {axis.taps, -1, 1}, 2 * r + 1, Listed<T>{x + first, 1});
  axis.each_end(first, stop, [&](Index end, Index inwards) {
    Vec<T>* row = y[end - first];
    if (axis.halves) scale<T>(row, w, 0.5);
    if (axis.tails)
      for (Index n = 0; n < r; ++n)
        for (Index i = 0; i < w; ++i) row[i] += axis.tail[n] * x[r + end + inwards * n][i];
  });
}

}  // namespace
