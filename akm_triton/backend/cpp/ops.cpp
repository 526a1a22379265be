// The ops on a CPU: T(a) z T(b)ᵀ of maps z (N, C, H, W), and the gradients of ⟨g, T(a) z T(b)ᵀ⟩.
//
// A vector holds one pixel of several planes, a plane in each lane: every plane has taps of its own,
// and no sum crosses lanes, so a plane gives the same bits in any company. Channels that lie side by
// side in memory (channels_last) are loaded as they are; planes that lie one after another are
// transposed on their way in and out. A blur alone of long rows has a shorter way, in direct.h.
//
// A group of planes goes down its rows a batch at a time. What T(b) makes of them waits in a ring of
// rows until T(a) has summed it. An axis is a convolution with 2R+1 taps, or a product with the
// matrix T where the axis is shorter than that.

#include "narrow.h"
#include "products.h"
#include "rows.h"
#include "taps.h"

namespace {

template <class T> using Tables = std::vector<std::pair<const T*, const T*>>;

// y = T(a) z T(b)ᵀ, or a sum of such terms, of the rows and columns that are kept: a and b of each are a pair of
// tables.
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
  const Job &job = plan.job, kept = job.kept();
  const Index w = job.width, batch = plan.batch;
  std::vector<Vector> vectors(plan.wide);
  Rows<T> x[WIDE], sums[WIDE];
  for (int k = 0; k < plan.wide; ++k)
    for (std::size_t t = 0; t < tables.size(); ++t) {
      const Axis<T> axis(job.height, job.radius, job.down, job.adjoint, false, scratch, job.keep_down);
      const Axis<T> other(w, job.radius, job.across, job.adjoint, true, scratch, job.keep_across);
      const Rows<T> term{scratch.take<Vec<T>>(batch * kept.width), kept.width};
      vectors[k].terms.push_back({axis, other, Ring<T>(axis, plan.ring, kept.width, scratch), term});
      if (t == 0) x[k] = other.rows(batch, scratch), sums[k] = term;
    }
  Vec<T>*room = scratch.take<Vec<T>>(batch * w), *row_room = scratch.take<Vec<T>>(w + 2 * job.radius + job.keep_across);
  for (Index i = from; i < to; ++i) {
    const Task<T> task(plan, i);
    const Tile<T> &tile = task.tile, out(kept, plan.wide, i / job.bands);
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
            across(term.across, x[k], n, term.ring.from(done), row_room);
            enter(term.down, term.ring, done, n);
          }
        }
      }
      for (int k = 0; k < tile.vectors; ++k) {
        for (const Term& term : vectors[k].terms) down(term.down, term.ring, row, stop, term.y);
        for (std::size_t t = 1; t < tables.size(); ++t)
          for (Index p = 0; p < (stop - row) * kept.width; ++p) sums[k].at[p] += vectors[k].terms[t].y.at[p];
      }
      out.store(y, row, stop, sums);
    });
  }
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

// grads (2, bands, sums, C, R+1) = [∂F/∂a, ∂F/∂b] of F = ⟨g, T(a) z T(b)ᵀ⟩, and dz = T(a)ᵀ g T(b) if wanted.
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
  const Index h = job.height, w = job.width, r = job.radius;
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
  const auto add = [&](const Task<T>& task) {
    const Tile<T>& tile = task.tile;
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
  };
  for (Index i = from; i < to; ++i) {
    const Index band = i % job.bands, sum = i / job.bands, sample = sum % job.sums() * job.together;
    const Index first = sum / job.sums() * job.samples + sample;
    const Task<T> task(plan, first * job.bands + band);
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
    add(task);
    for (Index n = 1; n < std::min(job.together, job.samples - sample); ++n)
      add(Task<T>(plan, (first + n) * job.bands + band));
    for (int k = 0; k < tile.vectors; ++k)
      for (const Products<T>* products : {&vectors[k].of_a, &vectors[k].of_b}) {
        products->by_taps(by_taps);
        const Index part = (products == &vectors[k].of_b) * job.bands + band;
        Index at[LANES<T>];
        for (int l = 0; l < LANES<T>; ++l) {
          const Index plane = tile.plane[k * LANES<T> + l], n = plane / job.channels / job.together;
          at[l] = ((part * job.sums() + n) * job.channels + plane % job.channels) * (r + 1);
        }
        scatter(grads, at, tile.lanes(k), r + 1, by_taps);
      }
  }
}

// dt (2, count, R+1) from such gradients: the sums of those that share taps.
template <class T> std::vector<double> sums_of_shared(const Job& job, const T* grads, Index count) {
  const Index size = job.radius + 1;
  std::vector<double> dt(2 * count * size);
  for (Index part = 0; part < 2 * job.bands; ++part)
    for (Index n = 0; n < job.sums(); ++n)
      for (Index c = 0; c < job.channels; ++c, grads += size) {
        double* to = &dt[part / job.bands * count * size + n * job.tap_sample + c * job.tap_channel];
        for (Index m = 0; m < size; ++m) to[m] += grads[m];
      }
  return dt;
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
  const Plan<T> plan(*job, threads, !v);
  return share<T>(plan, threads, [&](Index from, Index to, Scratch& scratch) {
    if (plan.narrow) {
      const auto narrow = job->radius == 1 ? blur_narrowly<T, 1> : job->radius == 2 ? blur_narrowly<T, 2> : blur_narrowly<T, 3>;
      narrow(plan, z, y, t, t + half, from, to, scratch);
    } else if (plan.direct) blur_directly<T>(plan, z, y, t, t + half, from, to, scratch);
    else blur<T>(plan, z, y, tables, from, to, scratch);
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

// The taps t of ``count`` r and s, and y.
int akm_modulate(
    const Job* job, const Window* window, const NUMBER* z, const NUMBER* r, const NUMBER* s,
    NUMBER* t, NUMBER* y, Index count, int threads) {
  const int status = akm_taps(window, r, s, t, count);
  return status ? status : akm_blur(job, z, y, t, nullptr, count * (job->radius + 1), threads);
}

// (dz, dr, ds); dz may be null.
int akm_modulate_gradients(
    const Job* job, const Window* window, const NUMBER* g, const NUMBER* z, const NUMBER* r,
    const NUMBER* s, const NUMBER* t, NUMBER* dz, NUMBER* dr, NUMBER* ds, Index count, int threads) {
  using T = NUMBER;
  int status = 0;
  const int other = guarded([&] {
    const Index size = job->radius + 1;
    const std::unique_ptr<T[]> grads(new T[2 * job->bands * job->sums() * job->channels * size]);
    status = akm_gradients(job, g, z, dz, t, grads.get(), count * size, threads);
    if (!status) gated_taps_gradients(*window, r, s, sums_of_shared(*job, grads.get(), count).data(), dr, ds, count);
  });
  return status | other;
}
}
