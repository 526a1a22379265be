// Maps (N, C, H, W) in memory, and the planes of them that are computed together.

#pragma once

#include "vectors.h"

namespace {

enum class Border : Index { symmetric, zeros, replicate, reflect, circular };

// What the planes of a call have in common.
struct Job {
  Index samples, channels, height, width;
  Index last;                             // whether channels lie side by side, or planes one after another
  Index radius, tap_sample, tap_channel;  // taps of plane (n, c) begin at n·tap_sample + c·tap_channel
  Border down, across;
  Index adjoint;
  Index bands;                            // parts of the rows, which different threads may compute
  Index row_step, pixel_step;             // with ``last``: how far rows, and pixels of a row, lie apart
  Index keep_down, keep_across;           // which rows and columns of a blur are kept: the first, and every so manieth
  Index together;                         // samples whose gradients of taps are one sum; of a blur 1

  bool strides() const { return keep_down > 1 || keep_across > 1; }
  Index sums() const { return ceil_div(samples, together); }
  // The maps of what is kept.
  Job kept() const {
    Job job = *this;
    job.height = ceil_div(height, keep_down);
    job.width = ceil_div(width, keep_across);
    if (row_step == width * pixel_step)  // else rows lie within pixels, one beside another
      job.row_step = job.width * pixel_step;
    return job;
  }
};

// Planes that are computed together: one vector of them, or several of channels that lie side by side.
template <class T> struct Tile {
  static constexpr int L = LANES<T>, MOST = L * WIDE;
  int planes, vectors;
  Index plane[MOST];   // n·C + c. Lanes that are left over repeat the first plane
  Index offset[MOST];  // where it begins
  Index taps[MOST];    // where its taps begin
  Index width, row_step, pixel_step, size;
  bool last;

  // How many there are, or sums of them
  static Index count(const Job& job, int wide) {
    return job.last || job.together > 1 ? job.sums() * ceil_div<Index>(job.channels, L * wide)
                                        : ceil_div<Index>(job.samples * job.channels, L);
  }
  // All samples of some channels come one after another, so that their taps are prepared once.
  Tile(const Job& job, int wide, Index i)
      : width(job.width), row_step(job.row_step), pixel_step(job.pixel_step), last(job.last) {
    const Index area = job.height * job.width;
    const bool split = job.last || job.channels % L == 0;
    Index n = split ? i % job.samples : i * L / job.channels;
    Index c = split ? i / job.samples * L * wide : i * L % job.channels;
    const Index stop = job.last ? job.channels - c : (job.samples - n) * job.channels - c;
    size = job.samples * job.channels * area;
    planes = static_cast<int>(std::min<Index>(L * wide, stop));
    vectors = ceil_div(planes, L);
    for (int l = 0; l < vectors * L; ++l) {
      if (l < planes) {
        plane[l] = n * job.channels + c;
        offset[l] = job.last ? n * job.channels * area + c : plane[l] * area;
        taps[l] = n * job.tap_sample + c * job.tap_channel;
        if (++c == job.channels) c = 0, ++n;
      } else {
        plane[l] = plane[0], offset[l] = offset[0], taps[l] = taps[0];
      }
    }
  }
  int lanes(int vector) const { return std::min(L, planes - vector * L); }

  // x[vector] = rows first … stop of the planes; ``room`` takes as many pixels
  void load(const T* z, Index first, Index stop, const Rows<T>* x, Vec<T>* room) const {
    if (!last) {
      const bool packed = x->stride == width;
      gather(z + first * width, offset, (stop - first) * width, packed ? x->at : room);
      if (!packed)
        for (Index i = 0; i < stop - first; ++i) std::copy(room + i * width, room + (i + 1) * width, (*x)[i]);
      return;
    }
    load(z, first, stop - first, 0, width, x);
  }
  // x[vector] = pixels from … to of some rows
  void load(const T* z, Index first, Index rows, Index from, Index to, const Rows<T>* x) const {
    if (!last) {
      for (Index i = 0; i < rows; ++i) gather(z + (first + i) * width + from, offset, to - from, (*x)[i]);
      return;
    }
    const Index step = pixel_step, count = to - from;
    for (Index i = 0; i < rows; ++i) {
      const T* p = z + offset[0] + (first + i) * row_step + from * step;
      // the last vector of channels may reach beyond the maps
      const Index safe = p + (count - 1) * step + vectors * L <= z + size ? vectors : vectors - 1;
      for (int k = 0; k < vectors; ++k, p += L) {
        Vec<T>* x_k = x[k][i];
        if (k < safe)
          for (Index w = 0; w < count; ++w) std::memcpy(x_k + w, p + w * step, BYTES);
        else
          for (Index w = 0; w < count; ++w) x_k[w] = Vec<T>{}, std::memcpy(x_k + w, p + w * step, lanes(k) * sizeof(T));
      }
    }
  }
  void store(T* y, Index first, Index stop, const Rows<T>* x) const {  // x without gaps
    if (!last) return scatter(y + first * width, offset, planes, (stop - first) * width, x->at);
    store(y, first, stop - first, 0, width, x);
  }
  void store(T* y, Index first, Index rows, Index from, Index to, const Rows<T>* x) const {
    const int whole = planes / L;
    for (Index i = 0; i < rows; ++i) {
      if (!last) {
        scatter(y + (first + i) * width + from, offset, planes, to - from, (*x)[i]);
        continue;
      }
      T* p = y + offset[0] + (first + i) * row_step + from * pixel_step;
      for (Index w = 0; w < to - from; ++w, p += pixel_step) {
        for (int k = 0; k < whole; ++k) std::memcpy(p + k * L, &x[k][i][w], BYTES);
        if (whole < vectors) put(p + whole * L, x[whole][i][w], planes % L);
      }
    }
  }
  static void put(T* to, const Vec<T>& x, int lanes) {
    const char* from = reinterpret_cast<const char*>(&x);
#pragma GCC unroll 5
    for (int part = L; part; part /= 2)  // of a fixed size each
      if (lanes & part) {
        std::memcpy(to, from, part * sizeof(T));
        to += part, from += part * sizeof(T);
      }
  }
};

}  // namespace
