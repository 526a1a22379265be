// T(a) z T(b)ᵀ of maps whose numbers stay as they lie in memory, where both axes are convolutions.
//
// A vector holds what lies side by side: channels of a pixel (channels_last), or pixels of a row of one plane,
// whose taps are in every lane. Rows are copied once, to get their borders; the sums down go straight to y.
// In channels_last a part of the columns goes down the map after another.
// Every sum has the order that it has in ``blur``, and the same bits.

#pragma once

#include "axis.h"
#include "plan.h"

namespace {

// A vector anywhere in memory
template <class T> struct Anywhere {
  typedef T Vec __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
};
template <class T> using Loose = typename Anywhere<T>::Vec;

// Term k of sum (i, column) is at rows[i + k·by_row] + k·by_number, ``column`` vectors further.
template <class T> struct Terms {
  const T* const* rows;
  Index by_row, by_number;
};
// Sum (i, column) goes to at + i·by_row + column·by_column.
template <class T> struct Sums {
  T* at;
  Index by_row, by_column;
};

template <class T, int I, int V>
[[gnu::always_inline]] inline void window_block(
    Sums<T> y, const Vec<T>* taps, Index count, Terms<T> x, Index row, Index column) {
  Vec<T> sum[I][V];
#pragma GCC unroll 4
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 14
    for (int v = 0; v < V; ++v) sum[i][v] = Vec<T>{};
  for (Index k = 0; k < count; ++k) {
    const Vec<T> tap = taps[k];
#pragma GCC unroll 4
    for (int i = 0; i < I; ++i) {
      const T* p = x.rows[row + i + k * x.by_row] + k * x.by_number + column * LANES<T>;
      asm("" : "+r"(p));  // one address, and constant distances from it
#pragma GCC unroll 14
      for (int v = 0; v < V; ++v) sum[i][v] += tap * reinterpret_cast<const Loose<T>*>(p)[v];
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < I; ++i) {
    T* to = y.at + (row + i) * y.by_row + column * y.by_column;
#pragma GCC unroll 14
    for (int v = 0; v < V; ++v, to += y.by_column) *reinterpret_cast<Loose<T>*>(to) = sum[i][v];
  }
}

// y = Σ_k taps[k] · term k, for k < count: columns first … stop of some rows
template <class T>
void window_sums(Sums<T> y, const Vec<T>* taps, Index count, Terms<T> x, Index rows, Index first, Index stop) {
  const Index most = part(stop - first, COLUMNS);
  for (Index column = first; column < stop; column += most)
    with_constant<COLUMNS>(std::min(most, stop - column), [&](auto constant) {
      constexpr int V = decltype(constant)::value, I = V < 4 ? 4 : V < 7 ? 2 : 1;
      Index i = 0;
      for (; i + I <= rows; i += I) window_block<T, I, V>(y, taps, count, x, i, column);
      for (; i < rows; ++i) window_block<T, 1, V>(y, taps, count, x, i, column);
    });
}

// A few rows of planes with their borders: for each vector of channels, or of one plane.
template <class T> struct Bordered {
  static constexpr int L = LANES<T>;
  const Axis<T>& axis;
  const bool last;
  const Index stride;  // numbers of a row
  T* at[WIDE];

  Bordered(const Axis<T>& axis, const Plan<T>& plan, Scratch& scratch)
      : axis(axis), last(plan.job.last),
        stride((plan.columns + (last ? 2 * axis.radius : 1 + ceil_div<Index>(2 * axis.radius, L))) * L) {
    for (int k = 0; k < plan.wide; ++k) {
      at[k] = scratch.take<T>(plan.batch * stride);
      std::fill(at[k], at[k] + plan.batch * stride, T(0));  // lanes that are left over must not be slow numbers
    }
  }
  // With ``last`` the pixels from … to alone, and what T reaches beyond them
  void load(const Tile<T>& tile, int plane, const T* z, Index first, Index rows, Index from, Index to) const {
    const Index w = axis.size, r = axis.radius;
    if (last) {
      const Index low = std::max<Index>(0, from - r), high = std::min(w, to + r);
      Rows<T> x[WIDE];
      for (int k = 0; k < tile.vectors; ++k) x[k] = {reinterpret_cast<Vec<T>*>(at[k]) + r + low - from, stride / L};
      tile.load(z, first, rows, low, high, x);
      for (int k = 0; k < tile.vectors; ++k) extend(x[k].at - low, rows, stride / L, from, to);
      return;
    }
    const T *p = z + tile.offset[plane] + first * w, *end = z + tile.size;
    T* x = at[0] + r;
    for (Index i = 0; i < rows; ++i, p += w, x += stride)
      for (Index j = 0; j < w; j += L) {
        if (p + j + L <= end) *reinterpret_cast<Loose<T>*>(x + j) = *reinterpret_cast<const Loose<T>*>(p + j);
        else std::copy(p + j, p + w, x + j);
      }
    extend(at[0] + r, rows, stride, 0, w);
  }

 private:
  // x begins where pixel 0 would be.
  template <class P> void extend(P* x, Index rows, Index stride, Index from, Index to) const {
    const Index w = axis.size, r = axis.radius;
    const auto outside = [&](Index place) {
      const Index inside = axis.folded[r + place];
      x[place] = inside < 0 ? P{} : x[inside];
    };
    for (Index i = 0; i < rows; ++i, x += stride) {
      for (Index place = from - r; place < 0; ++place) outside(place);
      for (Index place = w; place < to + r; ++place) outside(place);
    }
  }
};

template <class T>
void blur_directly(
    const Plan<T>& plan, const T* z, T* y, const T* a, const T* b, Index from, Index to, Scratch& scratch) {
  constexpr int L = LANES<T>;
  struct Vector {
    Held<T> held;
    Axis<T> down, across;
    Ring<T> ring;
  };
  const Job& job = plan.job;
  const bool last = job.last;
  const Index w = job.width, columns = plan.columns, batch = plan.batch, count = 2 * job.radius + 1;
  const Index row_step = last ? job.row_step : w, column_step = last ? job.pixel_step : L;
  std::vector<Vector> vectors;
  for (int k = 0; k < plan.wide; ++k) {
    const Axis<T> axis(job.height, job.radius, job.down, false, false, scratch);
    vectors.push_back({{}, axis, Axis<T>(w, job.radius, job.across, false, true, scratch),
                       Ring<T>(axis, plan.ring, columns, scratch)});
  }
  const Bordered<T> x(vectors[0].across, plan, scratch);
  const T** rows = scratch.take<const T*>(batch);
  T* beside = scratch.take<T>(batch * columns * L);  // rows whose last vector is not whole
  const auto blur = [&](const Task<T>& task, int plane, Index begin, Index columns) {
    const Tile<T>& tile = task.tile;
    const int wide = last ? tile.vectors : 1;
    task.each_batch(plan, batch, [&](Index row, Index stop, Index done, Index needed) {
      for (Index n; done < needed; done += n) {
        n = vectors[0].ring.run(done, std::min(needed, done + batch));
        x.load(tile, plane, z, done, n, begin, begin + columns);
        for (int k = 0; k < wide; ++k) {
          for (Index i = 0; i < n; ++i) rows[i] = x.at[k] + i * x.stride;
          const Sums<T> u{reinterpret_cast<T*>(vectors[k].ring[done]), plan.columns * L, L};
          window_sums<T>(u, vectors[k].across.taps, count, {rows, 0, last ? L : 1}, n, 0, columns);
        }
      }
      // rows of y in pieces, so that vectors of channels that lie side by side are written together
      const Index each = part(columns, COLUMNS);
      for (Index column = 0; column < columns; column += each)
        for (int k = 0; k < wide; ++k) {
          const Index end = std::min(columns, column + each), lanes = last ? tile.lanes(k) : w % L;
          const bool whole = lanes == (last ? L : 0);
          T* to = y + tile.offset[plane] + row * row_step + begin * column_step + k * L;
          const Sums<T> out = whole ? Sums<T>{to, row_step, column_step} : Sums<T>{beside, columns * L, L};
          const auto list = reinterpret_cast<const T* const*>(vectors[k].ring.extended + row);
          window_sums<T>(out, vectors[k].down.taps, count, {list, 1, 0}, stop - row, column, end);
          if (whole) continue;
          const Vec<T>* sums = reinterpret_cast<const Vec<T>*>(beside);
          for (Index i = 0; i < stop - row; ++i, sums += columns, to += row_step)
            for (Index v = column; v < end; ++v)
              Tile<T>::put(to + v * column_step, sums[v], last || v == columns - 1 ? static_cast<int>(lanes) : L);
        }
    });
  };
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    const Index* taps = task.tile.taps;
    for (int k = 0; last && k < task.tile.vectors; ++k, taps += L)
      if (vectors[k].held.change(taps)) {
        vectors[k].down.set(a, taps);
        vectors[k].across.set(b, taps);
      }
    for (Index begin = 0; last && begin < w; begin += columns) blur(task, 0, begin, std::min(columns, w - begin));
    for (int plane = 0; !last && plane < task.tile.planes; ++plane) {
      vectors[0].down.set(a, taps[plane]);
      vectors[0].across.set(b, taps[plane]);
      blur(task, plane, 0, columns);
    }
  }
}

}  // namespace
