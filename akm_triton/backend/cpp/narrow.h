// T(a) z T(b)ᵀ of channels that lie side by side (channels_last) by windows of radius 1 to 3.
//
// Vectors of channels are loaded where they lie. A strip of columns goes down the map; the rows of y that are
// begun stay in registers, so nothing but z is read and nothing but y written. Every sum has the order that it
// has in ``blur``, and the same bits.

#pragma once

#include "direct.h"

namespace {

// Rows of z that some rows of y need, and where in a row the pixels lie that some columns of y need, −1 for
// none; ``zeros`` are as many as a row.
template <class T> struct Window2 {
  const T* const* rows;
  const Index* columns;
  const T* zeros;
};

// V columns of ``count`` rows of y. INSIDE tells that their pixels lie side by side.
template <class T, int R, int V, bool INSIDE>
[[gnu::noinline]] void narrow_strip(
    const Window2<T>& x, Index offset, Index count, const Vec<T>* a, const Vec<T>* b, T* y, Index row_step,
    Index step) {
  constexpr int K = 2 * R + 1;
  Vec<T> begun[K - 1][V] = {};  // the next row of y first
  Vec<T> along[R + 1];
  for (int n = 0; n <= R; ++n) along[n] = b[n];
  const auto row = [&](const T* from, auto ends, T* to) __attribute__((always_inline)) {
    const T* p = from + offset + x.columns[0];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Vec<T> u{};
#pragma GCC unroll 8
      for (int n = 0; n < K; ++n) {
        const T* q = INSIDE ? p + n * step : x.columns[v + n] < 0 ? x.zeros : from + offset + x.columns[v + n];
        u += along[n < R ? n : K - 1 - n] * *reinterpret_cast<const Loose<T>*>(q);
      }
      if constexpr (decltype(ends)::value) *reinterpret_cast<Loose<T>*>(to) = begun[0][v] + a[K - 1] * u, to += step;
#pragma GCC unroll 8
      for (int j = 0; j < K - 2; ++j) begun[j][v] = begun[j + 1][v] + a[K - 2 - j] * u;
      begun[K - 2][v] = a[0] * u;
      p += step;
    }
  };
  for (Index i = 0; i < K - 1; ++i) row(x.rows[i], std::false_type{}, y);
  for (Index i = 0; i < count; ++i, y += row_step) row(x.rows[i + K - 1], std::true_type{}, y);
}

template <class T, int R>
void blur_narrowly(
    const Plan<T>& plan, const T* z, T* y, const T* a, const T* b, Index from, Index to, Scratch& scratch) {
  constexpr int L = LANES<T>, V = NARROW<R>;
  struct Vector {
    Held<T> held;
    Axis<T> down, across;
  };
  const Job& job = plan.job;
  const Index w = job.width, step = job.pixel_step, row_step = job.row_step;
  std::vector<Vector> vectors;
  for (int k = 0; k < plan.wide; ++k)
    vectors.push_back({{}, Axis<T>(job.height, R, job.down, false, false, scratch),
                       Axis<T>(w, R, job.across, false, true, scratch)});
  T* zeros = scratch.take<T>(row_step);
  std::fill(zeros, zeros + row_step, T(0));
  Index* columns = scratch.take<Index>(w + 2 * R);
  for (Index i = 0; i < w + 2 * R; ++i) {
    const Index place = vectors[0].across.folded[i];
    columns[i] = place < 0 ? -1 : place * step;
  }
  const Index height = std::max<Index>(16, 8 * R);
  const T** rows = scratch.take<const T*>(height + 2 * R);
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    const Tile<T>& tile = task.tile;
    // where a vector begins; the last may overlap the one before
    const auto channel = [&](int k) { return std::min(k * L, tile.planes - L); };
    for (int k = 0; k < tile.vectors; ++k)
      if (const Index* taps = tile.taps + channel(k); vectors[k].held.change(taps)) {
        vectors[k].down.set(a, taps);
        vectors[k].across.set(b, taps);
      }
    for (Index row = task.first; row < task.stop; row += height) {
      const Index count = std::min(height, task.stop - row);
      for (Index n = 0; n < count + 2 * R; ++n) {
        const Index place = vectors[0].down.folded[row + n];
        rows[n] = place < 0 ? zeros : z + tile.offset[0] + place * row_step;
      }
      for (Index column = 0; column < w; column += V) {
        const Index first = std::min(column, w - V);  // so may strips
        const bool inside = first >= R && first + V + R <= w;
        const Window2<T> x{rows, columns + first, zeros};
        for (int k = 0; k < tile.vectors; ++k) {
          const auto strip = inside ? narrow_strip<T, R, V, true> : narrow_strip<T, R, V, false>;
          strip(x, channel(k), count, vectors[k].down.taps, vectors[k].across.taps,
                y + tile.offset[0] + row * row_step + first * step + channel(k), row_step, step);
        }
      }
    }
  }
}

}  // namespace
