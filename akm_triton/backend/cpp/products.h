// Products of pixels by where they lie to each other, which are ∂F/∂taps.

#pragma once

#include "axis.h"

namespace {

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

}  // namespace
