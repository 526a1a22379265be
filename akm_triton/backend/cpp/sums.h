// Sums of products, in registers: everything that takes long.

#pragma once

#include "vectors.h"

namespace {

// f gets the number n as a constant.
template <int MOST, class F, int... I>
inline void constant(int n, std::integer_sequence<int, I...>, F f) {
  (void)((n == MOST - I && (f(std::integral_constant<int, MOST - I>{}), true)) || ...);
}
template <int MOST, class F> inline void with_constant(Index n, F f) {
  constant<MOST>(static_cast<int>(n), std::make_integer_sequence<int, MOST>{}, f);
}
// n in equal parts of at most ``most``
inline Index part(Index n, Index most) { return ceil_div(n, ceil_div(n, most)); }

// Coefficients c(i, k) and rows x(i, k) of the sums Σ_k c(i, k) x(i, k), for i < rows and k < terms.
template <class T> struct Coefficients {
  const Vec<T>* at;
  Index by_row, by_term;
};
template <class T> struct Strided {
  const Vec<T>* at;
  Index by_row, by_term;
  const Vec<T>* operator()(Index i, Index k) const { return at + i * by_row + k * by_term; }
};
template <class T> struct Placed {
  const Vec<T>* at;
  const Index* place;
  const Vec<T>* operator()(Index, Index k) const { return at + place[k]; }
};
template <class T> struct Listed {
  const Vec<T>* const* at;
  Index by_row;
  const Vec<T>* operator()(Index i, Index k) const { return at[i * by_row + k]; }
};

template <class T, bool ADD, int I, int V, class X>
[[gnu::always_inline]] inline void sum_block(Rows<T> y, Coefficients<T> c, Index terms, X x, Index row, Index column) {
  Vec<T> sum[I][V];
#pragma GCC unroll 2
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 14
    for (int v = 0; v < V; ++v) sum[i][v] = ADD ? y[row + i][column + v] : Vec<T>{};
  for (Index k = 0; k < terms; ++k, c.at += c.by_term) {
    const Vec<T>* p = x(row, k) + column;
    asm("" : "+r"(p));  // one address, and constant distances from it
#pragma GCC unroll 14
    for (int v = 0; v < V; ++v) {
      const Vec<T> q = p[v];
#pragma GCC unroll 2
      for (int i = 0; i < I; ++i) sum[i][v] += c.at[i * c.by_row] * q;
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 14
    for (int v = 0; v < V; ++v) y[row + i][column + v] = sum[i][v];
}

// y[i][w] = Σ_k c(i, k) x(i, k)[w], or added to it, for w < n. With I = 2 two rows of y read the same x. Where
// c.by_row is −1, c stays where it is, and the second row begins one x later.
template <class T, int I, bool ADD = false, class X>
void sum_rows(Rows<T> y, Index rows, Index n, Coefficients<T> c, Index terms, X x) {
  const bool slides = c.by_row == -1;
  // a strip of the x that all rows of y read stays in the first cache
  const Index strip = I == 1 || slides ? COLUMNS : CACHED / terms;
  const Index most = part(n, std::clamp<Index>(strip, 4, COLUMNS));
  const auto columns = [&](Index from, Index to, Index each) {
    with_constant<COLUMNS>(each, [&](auto constant) {
      constexpr int V = decltype(constant)::value;
      for (Index w = from; w < to; w += V) {
        Coefficients<T> here = c;
        Index i = 0;
        for (; i + I <= rows; i += I, here.at += slides ? 0 : I * c.by_row)
          sum_block<T, ADD, I, V>(y, here, slides ? terms + I - 1 : terms, x, i, w);
        for (; i < rows; ++i, here.at += slides ? 0 : c.by_row)
          sum_block<T, ADD, 1, V>(y, here, terms, x, i, w);
      }
    });
  };
  const Index whole = n / most * most;
  columns(0, whole, most);
  if (whole < n) columns(whole, n, n - whole);
}

// out(i, j, Σ_w a(i)[w] b(j)[w]) for i < I, j < J and n columns
template <class T, int I, int J, class A, class B, class Out>
inline void dot_block(Index n, A a, B b, Out out) {
  const Vec<T>*p[I], *q[J];
  for (int i = 0; i < I; ++i) p[i] = a(i);
  for (int j = 0; j < J; ++j) q[j] = b(j);
  Vec<T> sum[I][J] = {};
  for (Index w = 0; w < n; ++w) {
    Vec<T> right[J];
#pragma GCC unroll 6
    for (int j = 0; j < J; ++j) right[j] = q[j][w];
#pragma GCC unroll 4
    for (int i = 0; i < I; ++i) {
      const Vec<T> left = p[i][w];
#pragma GCC unroll 6
      for (int j = 0; j < J; ++j) sum[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < I; ++i)
    for (int j = 0; j < J; ++j) out(i, j, sum[i][j]);
}

// The same for a few rows of a, and as many of b as ``width``
template <class T, int I, class A, class B, class Out>
inline void dot_rows(Index width, Index n, A a, B b, Out out) {
  for (Index j = 0; j < width; j += DOT_COLUMNS)
    with_constant<DOT_COLUMNS>(std::min<Index>(DOT_COLUMNS, width - j), [&](auto columns) {
      dot_block<T, I, decltype(columns)::value>(
          n, a, [&](Index k) { return b(j + k); },
          [&](Index i, Index k, Vec<T> sum) { out(i, j + k, sum); });
    });
}

}  // namespace
