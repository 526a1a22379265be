// σ and s → taps t = [sigmoid(s) k(|r|), k(|r|)], and the gradient of ⟨dt, t⟩ by r and s. A σ in each lane, in
// float64: there are few taps. gaussian.py says what they are, and has them in PyTorch.

#pragma once

#include <cmath>

#include "vectors.h"

namespace {

struct Window {
  Index radius;
  Index discrete, gated;
  double truncate;  // 0 keeps all
};

using Wide = Vec<double>;
constexpr int SIGMAS = LANES<double>;

template <class F> Wide each(F f) {
  Wide x;
  for (int l = 0; l < SIGMAS; ++l) x[l] = f(l);
  return x;
}

// The taps k of a few σ, summing to 1 over both sides, and unit · ∂k/∂t.
struct Taps {
  std::vector<Wide> k, slope;
  Wide unit;

  explicit Taps(Index radius) : k(radius + 1), slope(radius + 1), below(radius + 1), from(radius + 1) {}

  template <class T> void set(const Wide& r, const Window& window) {
    const Index last = window.radius;
    const double switched = std::pow(0.75 * std::max<Index>(last, 10), 2);
    const Wide t = r * r;
    if (!window.discrete) {
      sampled(t);
    } else {
      bessel(each([&](int l) { return std::min(t[l], switched); }));
      for (int l = 0; l < SIGMAS; ++l)
        if (t[l] > switched) series(t[l], l);
    }
    if (window.truncate > 0)
      for (Index n = 0; n <= last; ++n)
        for (int l = 0; l < SIGMAS; ++l)
          if (!(T(n) <= T(window.truncate) * std::abs(T(r[l])))) k[n][l] = slope[n][l] = 0;
    Wide total = k[0], change = slope[0];
    for (Index n = 1; n <= last; ++n) total += 2 * k[n], change += 2 * slope[n];
    const Wide scale = 1 / total;
    for (Index n = 0; n <= last; ++n) {
      k[n] *= scale;
      slope[n] = (slope[n] - k[n] * change) * scale;
    }
  }

 private:
  std::vector<Wide> below, from;  // I_n / I_{n−1} and its derivative

  // exp(−n²/2t). Below t = 1e-4 every side tap is zero in any dtype, and so is its derivative.
  void sampled(const Wide& t) {
    unit = each([&](int l) { return std::max(t[l], 1e-4); });
    for (std::size_t n = 0; n < k.size(); ++n) {
      const Wide u = double(n * n) / (2 * unit);
      k[n] = each([&](int l) { return std::exp(-u[l]); });
      slope[n] = k[n] * u;
    }
  }

  // I_n(t) / I_0(t), by the ratios ρ_n = I_n / I_{n−1} = t / (2n + t ρ_{n+1}), downwards from where they no
  // longer matter: there the taps are 1e-17 of the last one in the window.
  void bessel(const Wide& t) {
    const Index last = k.size() - 1;
    double most = 0;
    for (int l = 0; l < SIGMAS; ++l) most = std::max(most, t[l]);
    Index first = last + 1;
    const Index enough = std::sqrt(last * last + 40 * most) + 12;
    // each step divides the error by (2n/t)² at least
    for (double error = 1; error > 1e-17 && first < enough; ++first) error *= std::pow(most / (2.0 * first), 2);
    Wide ratio{}, change{};
    for (Index n = first; n > 0; --n) {
      const Wide s = 1 / (2.0 * n + t * ratio);
      change = s * s * (2.0 * n - t * t * change);
      ratio = t * s;
      if (n <= last) below[n] = ratio, from[n] = change;
    }
    unit = k[0] = 1 + 0 * t;
    slope[0] = Wide{};
    for (Index n = 1; n <= last; ++n) {
      k[n] = k[n - 1] * below[n];
      slope[n] = slope[n - 1] * below[n] + k[n - 1] * from[n];
    }
  }

  // For a large t: I_n ∝ Σ_m Π_{j≤m} ((2j−1)² − 4n²) / 8jt, and t · its derivative.
  void series(double t, int l) {
    unit[l] = t;
    for (std::size_t n = 0; n < k.size(); ++n) {
      double term = 1, sum = 1, weighted = 0;
      for (int m = 1; m < 16; ++m) {
        term *= ((2.0 * m - 1) * (2.0 * m - 1) - 4.0 * n * n) / (8.0 * m * t);
        sum += term;
        weighted -= m * term;
      }
      k[n][l] = sum, slope[n][l] = weighted;
    }
  }
};

// f(first, number, r, taps, gate) for each few of the σ
template <class T, class F> void each_taps(const Window& window, const T* r, const T* s, Index count, F f) {
  Taps taps(window.radius);
  for (Index i = 0; i < count; i += SIGMAS) {
    const int number = static_cast<int>(std::min<Index>(SIGMAS, count - i));
    // beyond, the taps are a box and their derivatives underflow; an infinite σ has none: NaN
    const Wide radius = each([&](int l) {
      const double x = r[i + std::min(l, number - 1)];
      return std::clamp(x, -1e150, 1e150) + 0 * x;
    });
    const Wide gate = each([&](int l) {
      return window.gated ? 1 / (1 + std::exp(-double(s[i + std::min(l, number - 1)]))) : 1.0;
    });
    taps.set<T>(radius, window);
    f(i, number, radius, taps, gate);
  }
}

// t (2, count, R+1)
template <class T> void gated_taps(const Window& window, const T* r, const T* s, T* t, Index count) {
  const Index size = window.radius + 1;
  each_taps(window, r, s, count, [&](Index i, int number, const Wide&, const Taps& taps, const Wide& gate) {
    for (int l = 0; l < number; ++l)
      for (Index n = 0; n < size; ++n) {
        t[(i + l) * size + n] = static_cast<T>(gate[l] * taps.k[n][l]);
        t[(count + i + l) * size + n] = static_cast<T>(taps.k[n][l]);
      }
  });
}

// dr = ⟨sigmoid(s) da + db, ∂k/∂r⟩ and ds = sigmoid'(s) ⟨da, k⟩ for dt = [da, db]
template <class T, class Sum>
void gated_taps_gradients(const Window& window, const T* r, const T* s, const Sum* dt, T* dr, T* ds, Index count) {
  const Index size = window.radius + 1;
  each_taps(window, r, s, count, [&](Index i, int number, const Wide& radius, const Taps& taps, const Wide& gate) {
    for (int l = 0; l < number; ++l) {
      const Sum *da = dt + (i + l) * size, *db = da + count * size;
      double of_k = 0, of_slope = 0;
      for (Index n = 0; n < size; ++n) {
        of_k += da[n] * taps.k[n][l];
        of_slope += (gate[l] * da[n] + db[n]) * taps.slope[n][l];
      }
      dr[i + l] = static_cast<T>(2 * radius[l] / taps.unit[l] * of_slope);
      ds[i + l] = static_cast<T>(window.gated ? gate[l] * (1 - gate[l]) * of_k : 0);
    }
  });
}

}  // namespace
