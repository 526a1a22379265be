// T(a) along rows alone: blur and gradients of one axis.

#pragma once

#include "lone_rows.h"

namespace {

// Rows of a map, or a part of one that is long, which go through the steps together.
struct Piece {
  Index row, rows, first, stop;  // pixels
};
// With a step rows are whole.
template <class T> Index in_piece(const Axis<T>& axis) {
  return axis.step > 1 ? axis.size : std::min(axis.size, CACHED);
}
template <class T, class F> void each_piece(const Task<T>& task, const Axis<T>& axis, F f) {
  const Index width = axis.size, pixels = in_piece(axis);
  const Index rows = pixels == width ? std::max<Index>(1, BATCH / width) : 1;
  for (Index row = task.first; row < task.stop; row += rows)
    for (Index first = 0; first < width; first += pixels)
      f(Piece{row, std::min(rows, task.stop - row), first, std::min(width, first + pixels)});
}

// Those rows of a map, and what T reaches of them beyond a piece.
template <class T> struct Lines {
  Rows<T> at[WIDE];  // pixel ``first`` of a piece first

  Lines(const Axis<T>& axis, const Plan<T>& plan, Scratch& scratch) {
    const Index width = in_piece(axis), border = axis.dense ? 0 : axis.radius;
    const Index stride = width + 2 * border, rows = std::max<Index>(1, BATCH / width);
    for (int k = 0; k < plan.wide; ++k) at[k] = {scratch.take<Vec<T>>(rows * stride) + border, stride};
  }
  Index low(const Axis<T>& axis, const Piece& piece) const {
    return axis.dense ? 0 : std::max<Index>(0, piece.first - axis.radius);
  }
  Index high(const Axis<T>& axis, const Piece& piece) const {
    return axis.dense ? axis.size : std::min(axis.size, piece.stop + axis.radius);
  }
  void load(const Tile<T>& tile, const T* z, const Axis<T>& axis, const Piece& piece) const {
    load(tile, z, piece, low(axis, piece), high(axis, piece), low(axis, piece));
  }
  // What lies outside the map, after what is done before a convolution.
  void extend(const Tile<T>& tile, const T* z, const Axis<T>& axis, const Piece& piece) const {
    if (axis.dense) return;
    const Index low = this->low(axis, piece), high = this->high(axis, piece);
    const auto each = [&](Index place, auto f) {
      for (int k = 0; k < tile.vectors; ++k)
        for (Index i = 0; i < piece.rows; ++i) f(at[k][i] - piece.first, place);
    };
    if (axis.halves)
      axis.each_end(low, high, [&](Index end, Index) { each(end, [](Vec<T>* x, Index i) { x[i] *= 2; }); });
    const auto outside = [&](Index place) {
      const Index from = axis.folded[axis.radius + place];
      if (from < 0) each(place, [](Vec<T>* x, Index i) { x[i] = Vec<T>{}; });
      else if (low <= from && from < high) each(place, [&](Vec<T>* x, Index i) { x[i] = x[from]; });
      else load(tile, z, piece, from, from + 1, place);
    };
    for (Index i = piece.first - axis.radius; i < 0; ++i) outside(i);
    for (Index i = axis.size; i < piece.stop + axis.radius; ++i) outside(i);
  }

 private:
  void load(const Tile<T>& tile, const T* z, const Piece& piece, Index from, Index to, Index place) const {
    Rows<T> there[WIDE];
    for (int k = 0; k < tile.vectors; ++k) there[k] = {at[k].at + place - piece.first, at[k].stride};
    tile.load(z, piece.row, piece.rows, from, to, there);
  }
};

// y = T(a) z along rows, of which those pixels that are kept
template <class T>
void blur_rows(
    const Plan<T>& plan, const T* z, T* y, const T* a, Index from, Index to, Scratch& scratch) {
  const Job& job = plan.job;
  if (is_lone<T>(job)) return blur_lone_rows(plan, z, y, a, from, to, scratch);
  const Index step = job.keep_across;
  std::vector<std::pair<Held<T>, Axis<T>>> vectors;
  for (int k = 0; k < plan.wide; ++k)
    vectors.push_back({{}, Axis<T>(job.width, job.radius, job.across, job.adjoint, true, scratch, step)});
  const Axis<T>& axis = vectors[0].second;
  const Lines<T> x(axis, plan, scratch), out(axis, plan, scratch);
  const Job kept = job.kept();
  Vec<T>* room = step > 1 ? scratch.take<Vec<T>>(job.width + 2 * job.radius + step) : nullptr;
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    const Tile<T> y_tile(kept, plan.wide, i / job.bands);
    for (int k = 0; k < task.tile.vectors; ++k)
      if (const Index* taps = task.tile.taps + k * LANES<T>; vectors[k].first.change(taps))
        vectors[k].second.set(a, taps);
    each_piece(task, axis, [&](const Piece& piece) {
      x.load(task.tile, z, axis, piece);
      if (step > 1) {
        for (int k = 0; k < task.tile.vectors; ++k) across(vectors[k].second, x.at[k], piece.rows, out.at[k], room);
        y_tile.store(y, piece.row, piece.rows, 0, axis.kept, out.at);
        return;
      }
      x.extend(task.tile, z, axis, piece);
      for (int k = 0; k < task.tile.vectors; ++k)
        sum_across(vectors[k].second, x.at[k], piece.rows, piece.first, piece.stop, out.at[k]);
      y_tile.store(y, piece.row, piece.rows, piece.first, piece.stop, out.at);
    });
  }
}

// grads = ∂F/∂a of F = ⟨g, T(a) z⟩, and dz = T(a)ᵀ g if wanted. Of each plane: (bands, N, C, R+1); or where the
// planes of a sample share taps, of each vector of them: (bands, N, C / LANES, R+1).
template <class T>
void gradients_of_rows(
    const Plan<T>& plan, const T* g, const T* z, T* dz, const T* a, T* grads, bool together,
    Index from, Index to, Scratch& scratch) {
  struct Vector {
    Held<T> held;
    Axis<T> back;
    Products<T> of_a;
  };
  const Job& job = plan.job;
  if (is_lone<T>(job)) return gradients_of_lone_rows(plan, g, z, dz, a, grads, from, to, scratch);
  const Index w = job.width, r = job.radius;
  std::vector<Vector> vectors;
  for (int k = 0; k < plan.wide; ++k) {
    const Axis<T> forth(w, r, job.across, false, true, scratch);
    vectors.push_back({{}, Axis<T>(w, r, job.across, true, true, scratch), Products<T>(forth, scratch)});
  }
  const Axis<T>&forth = vectors[0].of_a.axis, &back = vectors[0].back;
  const Lines<T> x(forth, plan, scratch), v(forth, plan, scratch), out(forth, plan, scratch);
  Vec<T>* by_taps = scratch.take<Vec<T>>(r + 1);
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    const Tile<T>& tile = task.tile;
    for (int k = 0; k < tile.vectors; ++k) {
      const Index* taps = tile.taps + k * LANES<T>;
      if (dz && vectors[k].held.change(taps)) vectors[k].back.set(a, taps);
      vectors[k].of_a.clear();
    }
    each_piece(task, forth, [&](const Piece& piece) {
      v.load(tile, g, back, piece);
      x.load(tile, z, forth, piece);
      x.extend(tile, z, forth, piece);
      for (int k = 0; k < tile.vectors; ++k)
        multiply_across(vectors[k].of_a, v.at[k], x.at[k], piece.rows, piece.stop - piece.first);
      if (!dz) return;
      v.extend(tile, g, back, piece);
      for (int k = 0; k < tile.vectors; ++k)
        sum_across(vectors[k].back, v.at[k], piece.rows, piece.first, piece.stop, out.at[k]);
      tile.store(dz, piece.row, piece.rows, piece.first, piece.stop, out.at);
    });
    for (int k = 0; k < tile.vectors; ++k) {
      vectors[k].of_a.by_taps(by_taps);
      const Index* plane = tile.plane + k * LANES<T>;
      const int lanes = tile.lanes(k);
      if (!together) {
        Index at[LANES<T>];
        for (int l = 0; l < LANES<T>; ++l)
          at[l] = (task.band * job.samples * job.channels + plane[l]) * (r + 1);
        scatter(grads, at, lanes, r + 1, by_taps);
        continue;
      }
      const Index n = plane[0] / job.channels, c = plane[0] % job.channels / LANES<T>;
      const Index of_sample = ceil_div<Index>(job.channels, LANES<T>);
      T* sums = grads + ((task.band * job.samples + n) * of_sample + c) * (r + 1);
      for (Index m = 0; m <= r; ++m) {
        sums[m] = 0;
        for (int l = 0; l < lanes; ++l) sums[m] += by_taps[m][l];
      }
    }
  }
}

}  // namespace
