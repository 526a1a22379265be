// A vector holds one number of each of several planes, a plane in each lane; and how numbers that lie
// one after another become vectors.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace {

using Index = std::ptrdiff_t;

// What is summed at once, in registers: ROWS × COLUMNS sums of rows, DOT_ROWS × DOT_COLUMNS products.
#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 2, DOT_ROWS = 4, DOT_COLUMNS = 6;
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 1, DOT_ROWS = 3, DOT_COLUMNS = 4;
#elif defined(__aarch64__)
constexpr int BYTES = 16, ROWS = 2, DOT_ROWS = 4, DOT_COLUMNS = 6;
#else
constexpr int BYTES = 16, ROWS = 1, DOT_ROWS = 3, DOT_COLUMNS = 4;
#endif
// Columns that go down a map together by a narrow window of radius R
template <int R> constexpr int NARROW = (ROWS > 1 ? 28 : 12) / (2 * R + 2);
constexpr int COLUMNS = 14;  // the sides of most maps are multiples of 7
constexpr int WIDE = 256 / BYTES;  // vectors of channels that lie side by side: whole cache lines, in order
constexpr Index BATCH = 8192 / BYTES;  // pixels that go through the steps together, within the first cache
constexpr Index CACHED = 32768 / BYTES;  // pixels that a first cache holds
constexpr Index STRIP = 32;  // columns of a product of rows, which stay in the first cache

template <class T> struct Simd {
  typedef T Vec __attribute__((vector_size(BYTES)));
};
template <class T> using Vec = typename Simd<T>::Vec;
template <class T> constexpr int LANES = BYTES / sizeof(T);

template <class I> constexpr I ceil_div(I a, I b) { return (a + b - 1) / b; }

template <class T> struct Rows {
  Vec<T>* at;
  Index stride;
  Vec<T>* operator[](Index i) const { return at + i * stride; }
};

// Memory of one thread, which keeps it for its next call.
class Scratch {
 public:
  template <class V> V* take(Index count) {
    const std::size_t bytes = ceil_div(count * sizeof(V), ALIGNMENT) * ALIGNMENT;
    if (used_ + bytes > room_) {
      room_ = std::max(bytes, 2 * room_);
      blocks_.emplace_back(static_cast<char*>(operator new(room_, std::align_val_t{ALIGNMENT})));
      used_ = 0;
    }
    char* here = blocks_.back().get() + used_;
    used_ += bytes;
    return reinterpret_cast<V*>(here);
  }
  // Gives all back: to the thread the last and largest block, the others to the system.
  void restart() {
    if (blocks_.size() > 1) blocks_.erase(blocks_.begin(), blocks_.end() - 1);
    if (room_ > KEPT) blocks_.clear(), room_ = 0;
    used_ = 0;
  }

 private:
  static constexpr std::size_t ALIGNMENT = 64, KEPT = std::size_t{1} << 26;
  struct Delete {
    void operator()(char* p) const { operator delete(p, std::align_val_t{ALIGNMENT}); }
  };
  std::vector<std::unique_ptr<char, Delete>> blocks_;
  std::size_t room_ = 0, used_ = 0;
};

// Lanes and planes.

template <class V, int... I> inline V pick(V a, V b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){I...});
#endif
}

// A square of vectors in blocks of D × D: those beside the diagonal change places.
template <class T, int D, int... J>
inline void swap_blocks(Vec<T>* r, std::integer_sequence<int, J...>) {
  constexpr int L = LANES<T>;
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i)
    if (!(i & D)) {
      const Vec<T> a = r[i], b = r[i + D];
      r[i] = pick(a, b, std::integer_sequence<int, (J & D ? L + J - D : J)...>{});
      r[i + D] = pick(a, b, std::integer_sequence<int, (J & D ? L + J : J + D)...>{});
    }
}
template <class T, int D = LANES<T> / 2> inline void transpose(Vec<T>* r) {
  swap_blocks<T, D>(r, std::make_integer_sequence<int, LANES<T>>{});
  if constexpr (D > 1) transpose<T, D / 2>(r);
}

// x[i] = the ith of n numbers from each lane's offset on.
template <class T> void gather(const T* from, const Index* offset, Index n, Vec<T>* x) {
  constexpr int L = LANES<T>;
  Vec<T> r[L];
  for (Index i = 0; i < n; i += L) {
    if (n < L) {
      for (int l = 0; l < L; ++l) r[l] = Vec<T>{}, std::memcpy(&r[l], from + offset[l], n * sizeof(T));
      transpose<T>(r);
      std::copy(r, r + n, x);
      return;
    }
    i = std::min(i, n - L);  // the last may overlap the one before
    for (int l = 0; l < L; ++l) std::memcpy(&r[l], from + offset[l] + i, BYTES);
    transpose<T>(r);
    for (int l = 0; l < L; ++l) x[i + l] = r[l];
  }
}

// The inverse, for the first lanes.
template <class T> void scatter(T* to, const Index* offset, int lanes, Index n, const Vec<T>* x) {
  constexpr int L = LANES<T>;
  Vec<T> r[L];
  for (Index i = 0; i < n; i += L) {
    if (n < L) {
      std::copy(x, x + n, r);
      transpose<T>(r);
      for (int l = 0; l < lanes; ++l) std::memcpy(to + offset[l], &r[l], n * sizeof(T));
      return;
    }
    i = std::min(i, n - L);
    for (int l = 0; l < L; ++l) r[l] = x[i + l];
    transpose<T>(r);
    for (int l = 0; l < lanes; ++l) std::memcpy(to + offset[l] + i, &r[l], BYTES);
  }
}

}  // namespace
