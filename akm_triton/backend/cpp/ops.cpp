// The ops on a CPU: T(a) z T(b)ᵀ of maps z (N, C, H, W), and the gradients of ⟨g, T(a) z T(b)ᵀ⟩.
//
// A vector holds one pixel of several planes, a plane in each lane: every plane has taps of its own,
// and no sum crosses lanes, so a plane gives the same bits in any company. Channels that lie side by
// side in memory (channels_last) are loaded as they are; planes that lie one after another are
// transposed on their way in and out.
//
// A group of planes goes down its rows a batch at a time. What T(b) makes of them waits in a ring of
// rows until T(a) has summed it. An axis is a convolution with 2R+1 taps, or a product with the
// matrix T where the axis is shorter than that.

#include "axis.h"
#include "plan.h"
#include "taps.h"

namespace {

template <class T> using Tables = std::vector<std::pair<const T*, const T*>>;

// y = T(a) z T(b)ᵀ, or a sum of such terms: a and b of each are a pair of tables.
template <class T>
void blur(
    const Plan<T>& plan, const T* z, T* y, const Tables<T>& tables, Index from, Index to,
    Scratch& scratch) {
  struct Term {
    Axis<T> down, across;
    Ring<T> ring;
    Rows<T> y;
  };
  struct Vector {
    Held<T> held;
    std::vector<Term> terms;
  };
  const Job& job = plan.job;
  const Index w = job.width, batch = plan.batch;
  std::vector<Vector> vectors(plan.wide);
  Rows<T> x[WIDE], sums[WIDE];
  for (int k = 0; k < plan.wide; ++k)
    for (std::size_t t = 0; t < tables.size(); ++t) {
      const Axis<T> axis(job.height, job.radius, job.down, job.adjoint, false, scratch);
      const Axis<T> other(w, job.radius, job.across, job.adjoint, true, scratch);
      const Rows<T> term{scratch.take<Vec<T>>(batch * w), w};
      vectors[k].terms.push_back({axis, other, Ring<T>(axis, plan.ring, w, scratch), term});
      if (t == 0) x[k] = other.rows(batch, scratch), sums[k] = term;
    }
  Vec<T>* room = scratch.take<Vec<T>>(batch * w);
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    const Tile<T>& tile = task.tile;
    for (int k = 0; k < tile.vectors; ++k)
      if (const Index* taps = tile.taps + k * LANES<T>; vectors[k].held.change(taps))
        for (std::size_t t = 0; t < tables.size(); ++t) {
          vectors[k].terms[t].down.set(tables[t].first, taps);
          vectors[k].terms[t].across.set(tables[t].second, taps);
        }
    task.each_batch(plan, batch, [&](Index row, Index stop, Index done, Index needed) {
      for (Index n; done < needed; done += n) {
        n = vectors[0].terms[0].ring.run(done, std::min(needed, done + batch));
        tile.load(z, done, done + n, x, room);
        for (int k = 0; k < tile.vectors; ++k) {
          enter(vectors[k].terms[0].across, x[k], n);
          for (const Term& term : vectors[k].terms) {
            across(term.across, x[k], n, term.ring.from(done));
            enter(term.down, term.ring, done, n);
          }
        }
      }
      for (int k = 0; k < tile.vectors; ++k) {
        for (const Term& term : vectors[k].terms) down(term.down, term.ring, row, stop, term.y);
        for (std::size_t t = 1; t < tables.size(); ++t)
          for (Index p = 0; p < (stop - row) * w; ++p) sums[k].at[p] += vectors[k].terms[t].y.at[p];
      }
      tile.store(y, row, stop, sums);
    });
  }
}

// Sums of products of two pixels each, by where these lie to each other, on their way to ∂F/∂taps.
template <class T> struct Products {
  Axis<T> axis;
  Index count;
  Vec<T>* sums;  // of a convolution by distance, −radius to radius; else by output and input

  Products(const Axis<T>& axis, Scratch& scratch)
      : axis(axis), count(axis.dense ? axis.size * axis.size : 2 * axis.radius + 1),
        sums(scratch.take<Vec<T>>(count)) {}
  void clear() { std::fill(sums, sums + count, Vec<T>{}); }
  void by_taps(Vec<T>* grads) const {
    const Index r = axis.radius;
    std::fill(grads, grads + r + 1, Vec<T>{});
    if (axis.dense)
      axis.each_entry([&](Index i, Index j, Index n) { grads[n] += sums[i * axis.size + j]; });
    else
      for (Index n = -r; n <= r; ++n) grads[std::abs(n)] += sums[r + n];
  }
};

// Of rows v of T(a)ᵀ g and rows x of z, the latter with their borders.
template <class T>
void multiply_across(Products<T>& products, Rows<T> v, Rows<T> x, Index rows, Index columns) {
  const Index w = products.axis.size, r = products.axis.radius;
  if (products.axis.dense)
    return sum_rows<T, ROWS, true>(
        Rows<T>{products.sums, w}, w, w, {v.at, 1, v.stride}, rows, Strided<T>{x.at, 0, x.stride});
  for (Index i = 0; i < rows; ++i)
    sum_rows<T, 1, true>(
        Rows<T>{products.sums, 0}, 1, 2 * r + 1, {v[i], 0, 1}, columns, Strided<T>{x[i] - r, 0, 1});
}

// Of rows of g in the ring and rows first … stop of u = z T(b)ᵀ. As a convolution: of g with the borders of
// Tᵀ and u, which for "reflect" is halved at the ends.
template <class T>
void multiply_down(Products<T>& products, const Ring<T>& ring, Rows<T> u, Index first, Index stop) {
  const Axis<T>& axis = products.axis;
  const Index w = ring.stride, r = axis.radius, h = axis.size;
  if (axis.halves)
    axis.each_end(first, stop, [&](Index end, Index) { scale<T>(u[end - first], w, 0.5); });
  const auto left = [&](Index i) { return axis.dense ? ring[i] : u[i - first]; };
  const auto right = [&](Index j) { return axis.dense ? u[j] : ring.extended[j]; };
  const auto multiply = [&](auto rows, Index i, Index column) {
    constexpr int I = decltype(rows)::value;
    dot_rows<T, I>(
        axis.dense ? h : 2 * r + I, std::min(STRIP, w - column),
        [&](Index k) { return left(i + k) + column; },
        [&](Index k) { return right(axis.dense ? k : i + k) + column; },
        [&](Index k, Index j, Vec<T> sum) {
          if (axis.dense) products.sums[(i + k) * h + j] += sum;
          else if (j >= k && j - k <= 2 * r) products.sums[j - k] += sum;
        });
  };
  for (Index column = 0; column < w; column += STRIP) {
    Index i = first;
    for (; i + DOT_ROWS <= stop; i += DOT_ROWS) multiply(std::integral_constant<int, DOT_ROWS>{}, i, column);
    for (; i < stop; ++i) multiply(std::integral_constant<int, 1>{}, i, column);
  }
  if (axis.tails)
    axis.each_end(first, stop, [&](Index end, Index inwards) {
      Vec<T> sum{};
      for (Index n = 0; n < r; ++n) {
        const Vec<T>*p = ring.extended[r + end + inwards * n], *q = u[end - first];
        for (Index k = 0; k < w; ++k) sum += p[k] * q[k];
        products.sums[r + n + 1] += sum;
      }
    });
}

// grads (2, bands, N, C, R+1) = [∂F/∂a, ∂F/∂b] of F = ⟨g, T(a) z T(b)ᵀ⟩, and dz = T(a)ᵀ g T(b) if wanted.
template <class T>
void gradients(
    const Plan<T>& plan, const T* g, const T* z, T* dz, const T* a, const T* b, T* grads,
    Index from, Index to, Scratch& scratch) {
  struct Vector {
    Held<T> held;
    Axis<T> back;
    Products<T> of_a, of_b;
    Ring<T> ring;
  };
  const Job& job = plan.job;
  const Index h = job.height, w = job.width, r = job.radius, planes = job.samples * job.channels;
  const Index batch = plan.dense ? h : plan.batch;
  std::vector<Vector> vectors;
  Rows<T> x[WIDE], out[WIDE];
  for (int k = 0; k < plan.wide; ++k) {
    const Axis<T> vertical(h, r, job.down, true, false, scratch);
    const Axis<T> forth(w, r, job.across, false, true, scratch);
    vectors.push_back({{}, Axis<T>(w, r, job.across, true, true, scratch), Products<T>(vertical, scratch),
                       Products<T>(forth, scratch), Ring<T>(vertical, plan.ring, w, scratch)});
    x[k] = forth.rows(batch, scratch);
    out[k] = {scratch.take<Vec<T>>(batch * w), w};
  }
  const Rows<T> v = vectors[0].back.rows(batch, scratch), u{scratch.take<Vec<T>>(batch * w), w};
  Vec<T>*room = scratch.take<Vec<T>>(batch * w), *by_taps = scratch.take<Vec<T>>(r + 1);
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    const Tile<T>& tile = task.tile;
    for (int k = 0; k < tile.vectors; ++k) {
      Vector& vector = vectors[k];
      if (const Index* taps = tile.taps + k * LANES<T>; vector.held.change(taps)) {
        vector.of_a.axis.set(a, taps);
        vector.of_b.axis.set(b, taps);
        vector.back.set(b, taps);
      }
      vector.of_a.clear();
      vector.of_b.clear();
    }
    task.each_batch(plan, batch, [&](Index row, Index stop, Index done, Index needed) {
      const Index rows = stop - row;
      for (Index n; done < needed; done += n) {
        n = vectors[0].ring.run(done, needed);
        Rows<T> to[WIDE];
        for (int k = 0; k < tile.vectors; ++k) to[k] = vectors[k].ring.from(done);
        tile.load(g, done, done + n, to, room);
        for (int k = 0; k < tile.vectors; ++k) enter(vectors[k].of_a.axis, vectors[k].ring, done, n);
      }
      tile.load(z, row, stop, x, room);
      for (int k = 0; k < tile.vectors; ++k) {
        Vector& vector = vectors[k];
        down(vector.of_a.axis, vector.ring, row, stop, v);
        across(vector.of_b.axis, x[k], rows, u);
        multiply_across(vector.of_b, v, x[k], rows, w);
        multiply_down(vector.of_a, vector.ring, u, row, stop);
        if (!dz) continue;
        enter(vector.back, v, rows);
        across(vector.back, v, rows, out[k]);
      }
      if (dz) tile.store(dz, row, stop, out);
    });
    for (int k = 0; k < tile.vectors; ++k)
      for (const Products<T>* products : {&vectors[k].of_a, &vectors[k].of_b}) {
        products->by_taps(by_taps);
        const Index part = (products == &vectors[k].of_b) * job.bands + task.band;
        Index at[LANES<T>];
        for (int l = 0; l < LANES<T>; ++l)
          at[l] = (part * planes + tile.plane[k * LANES<T> + l]) * (r + 1);
        scatter(grads, at, tile.lanes(k), r + 1, by_taps);
      }
  }
}

// One axis alone, along rows.

// Rows of a map, or a part of one that is long, which go through the steps together.
struct Piece {
  Index row, rows, first, stop;  // pixels
};
template <class T, class F> void each_piece(const Task<T>& task, Index width, F f) {
  const bool whole = width <= CACHED;
  const Index rows = whole ? std::max<Index>(1, BATCH / width) : 1, pixels = whole ? width : CACHED;
  for (Index row = task.first; row < task.stop; row += rows)
    for (Index first = 0; first < width; first += pixels)
      f(Piece{row, std::min(rows, task.stop - row), first, std::min(width, first + pixels)});
}

// Those rows of a map, and what T reaches of them beyond a piece.
template <class T> struct Lines {
  Rows<T> at[WIDE];  // pixel ``first`` of a piece first

  Lines(const Axis<T>& axis, const Plan<T>& plan, Scratch& scratch) {
    const Index width = std::min(axis.size, CACHED), border = axis.dense ? 0 : axis.radius;
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

// y = T(a) z along rows
template <class T>
void blur_rows(
    const Plan<T>& plan, const T* z, T* y, const T* a, Index from, Index to, Scratch& scratch) {
  const Job& job = plan.job;
  std::vector<std::pair<Held<T>, Axis<T>>> vectors;
  for (int k = 0; k < plan.wide; ++k)
    vectors.push_back({{}, Axis<T>(job.width, job.radius, job.across, job.adjoint, true, scratch)});
  const Lines<T> x(vectors[0].second, plan, scratch), out(vectors[0].second, plan, scratch);
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    for (int k = 0; k < task.tile.vectors; ++k)
      if (const Index* taps = task.tile.taps + k * LANES<T>; vectors[k].first.change(taps))
        vectors[k].second.set(a, taps);
    each_piece(task, job.width, [&](const Piece& piece) {
      x.load(task.tile, z, vectors[0].second, piece);
      x.extend(task.tile, z, vectors[0].second, piece);
      for (int k = 0; k < task.tile.vectors; ++k)
        sum_across(vectors[k].second, x.at[k], piece.rows, piece.first, piece.stop, out.at[k]);
      task.tile.store(y, piece.row, piece.rows, piece.first, piece.stop, out.at);
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
    each_piece(task, w, [&](const Piece& piece) {
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

// For one type of numbers a library, which halves the time until it is made.
#ifndef NUMBER
#define NUMBER float
#endif

extern "C" {

// The number of planes in a vector.
int akm_lanes() { return LANES<NUMBER>; }

// y = T(a) z T(b)ᵀ for taps t = [a, b], which lie ``half`` apart; with v = [c, d] T(a) z T(d)ᵀ + T(c) z T(b)ᵀ.
// This and the next return 0, or 1 if memory ran out.
int akm_blur(
    const Job* job, const NUMBER* z, NUMBER* y, const NUMBER* t, const NUMBER* v, Index half,
    int threads) {
  using T = NUMBER;
  const Tables<T> tables = v ? Tables<T>{{t, v + half}, {v, t + half}} : Tables<T>{{t, t + half}};
  const Plan<T> plan(*job, threads);
  return share<T>(plan, threads, [&](Index from, Index to, Scratch& scratch) {
    blur<T>(plan, z, y, tables, from, to, scratch);
  });
}

// As ``gradients``; dz may be null.
int akm_gradients(
    const Job* job, const NUMBER* g, const NUMBER* z, NUMBER* dz, const NUMBER* t, NUMBER* grads,
    Index half, int threads) {
  using T = NUMBER;
  const Plan<T> plan(*job, threads);
  return share<T>(plan, threads, [&](Index from, Index to, Scratch& scratch) {
    gradients<T>(plan, g, z, dz, t, t + half, grads, from, to, scratch);
  });
}

// As ``blur_rows``.
int akm_blur_rows(const Job* job, const NUMBER* z, NUMBER* y, const NUMBER* a, int threads) {
  using T = NUMBER;
  const Plan<T> plan(*job, threads);
  return share<T>(plan, threads, [&](Index from, Index to, Scratch& scratch) {
    blur_rows<T>(plan, z, y, a, from, to, scratch);
  });
}

// As ``gradients_of_rows``; dz and a may be null.
int akm_gradients_of_rows(
    const Job* job, const NUMBER* g, const NUMBER* z, NUMBER* dz, const NUMBER* a, NUMBER* grads,
    int together, int threads) {
  using T = NUMBER;
  const Plan<T> plan(*job, threads);
  return share<T>(plan, threads, [&](Index from, Index to, Scratch& scratch) {
    gradients_of_rows<T>(plan, g, z, dz, a, grads, together, from, to, scratch);
  });
}

// As in taps.h.
int akm_taps(const Window* window, const NUMBER* r, const NUMBER* s, NUMBER* t, Index count) {
  return guarded([&] { gated_taps(*window, r, s, t, count); });
}
int akm_taps_gradients(
    const Window* window, const NUMBER* r, const NUMBER* s, const NUMBER* dt, NUMBER* dr,
    NUMBER* ds, Index count) {
  return guarded([&] { gated_taps_gradients(*window, r, s, dt, dr, ds, count); });
}
}
