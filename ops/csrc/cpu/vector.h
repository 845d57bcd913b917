// Vectors of one instruction set, and the copies between memory and channels-last blocks. for_each_instruction_set.h
// includes this file inside a namespace, once per instruction set, so it has no include guard and no includes.
//
// A block is [positions][channels]: kBlockBytes of consecutive channels for each of some positions (cells, bins).

#ifndef FAST_RFCN_INLINE
#define FAST_RFCN_INLINE __attribute__((always_inline)) static inline
#endif

constexpr int kVectorBytes = FAST_RFCN_VECTOR_BYTES;
constexpr int kBlockBytes = 128;

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int32_t Index __attribute__((vector_size(kVectorBytes), may_alias));
};
template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int64_t Index __attribute__((vector_size(kVectorBytes), may_alias));
};
template <typename T>
using Vector = typename Lanes<T>::Vector;
template <typename T>
using Index = typename Lanes<T>::Index;

// Number of channels, and of vectors, in a block of T.
template <typename T>
constexpr int kChannels = kBlockBytes / sizeof(T);
constexpr int kVectors = kBlockBytes / kVectorBytes;

template <typename T>
static inline const Vector<T>* vectors(const T* block) {
  return reinterpret_cast<const Vector<T>*>(block);
}
template <typename T>
static inline Vector<T>* vectors(T* block) {
  return reinterpret_cast<Vector<T>*>(block);
}

template <typename T>
static inline bool any_lane(Index<T> lanes) {
#if FAST_RFCN_VECTOR_BYTES == 64
  return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes) != 0;
#elif FAST_RFCN_VECTOR_BYTES == 32
  return !_mm256_testz_si256((__m256i)lanes, (__m256i)lanes);
#else
  typedef uint64_t Halves __attribute__((vector_size(16)));
  return (((Halves)lanes)[0] | ((Halves)lanes)[1]) != 0;
#endif
}

// Prefetches bytes that are read soon. The hardware does not predict the jump to the next RoI.
FAST_RFCN_INLINE void fetch(const void* data, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(data) + at);
}

// ---- one number ----

static inline float number(float value) { return value; }
static inline double number(double value) { return value; }
static inline float number(BFloat16 value) { return __builtin_bit_cast(float, uint32_t{value.bits} << 16); }
static inline float number(Half value) {
  // Shift exponent and mantissa to their position and rescale; infinities and NaN keep the largest exponent.
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t rest = uint32_t{value.bits & 0x7fffu} << 13;
  const float scaled = __builtin_bit_cast(float, rest) * 0x1p112f;
  const uint32_t bits = (rest >= 0x7c00u << 13) ? (rest | 0x7f800000u) : __builtin_bit_cast(uint32_t, scaled);
  return __builtin_bit_cast(float, bits | sign);
}

template <typename S>
static inline S stored(float value);
template <>
inline BFloat16 stored<BFloat16>(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(value == value ? rounded : 0x7fc0u)};
}
template <>
inline Half stored<Half>(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
  // Normal numbers are rounded to even on their bits. Subnormal results are rounded by adding a power of two with the
  // same last place.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
  const uint32_t small = __builtin_bit_cast(uint32_t, shifted) - 0x3f000000u;
  uint32_t result = magnitude < 0x38800000u ? small : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  return {static_cast<uint16_t>(result | sign)};
}

// ---- transposing: to[column * to_stride + row] = from[row * from_stride + column] ----

// A number of `size` bytes of any type. The type is not passed as a template argument, which would drop may_alias.
template <int size>
struct Bits;
template <>
struct Bits<2> {
  typedef uint16_t type __attribute__((may_alias));
};
template <>
struct Bits<4> {
  typedef uint32_t type __attribute__((may_alias));
};
template <>
struct Bits<8> {
  typedef uint64_t type __attribute__((may_alias));
};

typedef uint16_t Octet __attribute__((vector_size(16), may_alias, aligned(2)));

// Tile of words: four by four, or eight by eight if registers are wide enough.
constexpr int64_t kWordTile = kVectorBytes >= 32 ? 8 : 4;

FAST_RFCN_INLINE void transpose_tile(const uint32_t* from, int64_t from_stride, uint32_t* to, int64_t to_stride) {
#if FAST_RFCN_VECTOR_BYTES >= 32
  typedef uint32_t HalfRow __attribute__((vector_size(16), may_alias, aligned(4)));
  typedef uint32_t Row __attribute__((vector_size(32), may_alias, aligned(4)));
  // Four columns at a time. Rows i and i + 4 share a register, so no shuffle crosses its halves.
  for (int column = 0; column < 8; column += 4) {
    Row a[4], b[4];
    for (int i = 0; i < 4; ++i) {
      const HalfRow low = *reinterpret_cast<const HalfRow*>(from + i * from_stride + column);
      const HalfRow high = *reinterpret_cast<const HalfRow*>(from + (i + 4) * from_stride + column);
      a[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * i] = __builtin_shufflevector(a[i], a[i + 2], 0, 8, 1, 9, 4, 12, 5, 13);
      b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 2], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 2; ++i) {
      const Row even = __builtin_shufflevector(b[i], b[i + 2], 0, 8, 1, 9, 4, 12, 5, 13);
      const Row odd = __builtin_shufflevector(b[i], b[i + 2], 2, 10, 3, 11, 6, 14, 7, 15);
      *reinterpret_cast<Row*>(to + (column + 2 * i) * to_stride) = even;
      *reinterpret_cast<Row*>(to + (column + 2 * i + 1) * to_stride) = odd;
    }
  }
#else
  typedef uint32_t Row __attribute__((vector_size(16), may_alias, aligned(4)));
  Row a[4], b[4];
  for (int i = 0; i < 4; ++i) a[i] = *reinterpret_cast<const Row*>(from + i * from_stride);
  for (int i = 0; i < 2; ++i) {
    b[2 * i] = __builtin_shufflevector(a[i], a[i + 2], 0, 4, 1, 5);
    b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 2], 2, 6, 3, 7);
  }
  for (int i = 0; i < 2; ++i) {
    *reinterpret_cast<Row*>(to + 2 * i * to_stride) = __builtin_shufflevector(b[i], b[i + 2], 0, 4, 1, 5);
    *reinterpret_cast<Row*>(to + (2 * i + 1) * to_stride) = __builtin_shufflevector(b[i], b[i + 2], 2, 6, 3, 7);
  }
#endif
}

FAST_RFCN_INLINE void transpose_tile(const uint16_t* from, int64_t from_stride, uint16_t* to, int64_t to_stride) {
  Octet row[8], pair[8];
  for (int i = 0; i < 8; ++i) row[i] = *reinterpret_cast<const Octet*>(from + i * from_stride);
  // Three rounds of interleaving row i with row i + 4 transpose eight by eight.
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 4; ++i) {
      pair[2 * i] = __builtin_shufflevector(row[i], row[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      pair[2 * i + 1] = __builtin_shufflevector(row[i], row[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; ++i) row[i] = pair[i];
  }
  for (int i = 0; i < 8; ++i) *reinterpret_cast<Octet*>(to + i * to_stride) = row[i];
}

FAST_RFCN_INLINE void transpose_tile(const Bits<8>::type* from, int64_t from_stride, Bits<8>::type* to,
                                     int64_t to_stride) {
  const uint64_t a = from[0], b = from[1], c = from[from_stride], d = from[from_stride + 1];
  to[0] = a, to[1] = c, to[to_stride] = b, to[to_stride + 1] = d;
}

// Tiles at the end of a row or column overlap their neighbours. Parts smaller than a tile are copied one by one.
template <int size>
static void transpose(const void* from_data, int64_t from_stride, void* to_data, int64_t to_stride, int64_t rows,
                      int64_t columns) {
  const auto* from = static_cast<const typename Bits<size>::type*>(from_data);
  auto* to = static_cast<typename Bits<size>::type*>(to_data);
  constexpr int64_t side = size == 2 ? 8 : size == 4 ? kWordTile : 2;
  if (rows < side || columns < side) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
    }
    return;
  }
  // Tiles follow the longer side from end to end, so there are few streams. The hardware prefetches them too late.
  constexpr int64_t line = 64 / size, ahead = 8 * line;
  if (columns >= rows) {
    for (int64_t row = 0; row < rows; row += side) {
      const int64_t r = smaller(row, rows - side);
      for (int64_t column = 0; column < columns; column += side) {
        const int64_t c = smaller(column, columns - side);
        for (int64_t i = 0; column % line == 0 && i < side; ++i) {
          __builtin_prefetch(from + (r + i) * from_stride + column + ahead);
        }
        transpose_tile(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
      }
    }
  } else {
    for (int64_t column = 0; column < columns; column += side) {
      const int64_t c = smaller(column, columns - side);
      for (int64_t row = 0; row < rows; row += side) {
        const int64_t r = smaller(row, rows - side);
        for (int64_t i = 0; row % line == 0 && i < side; ++i) {
          __builtin_prefetch(to + (c + i) * to_stride + row + ahead, 1);
        }
        transpose_tile(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
      }
    }
  }
}

// ---- blocks ----

constexpr int64_t kChunk = 64;  // positions converted at a time

// Fills a block [positions][kChannels<T>] from rows of S, one per channel; missing channels become 0.
template <typename S, typename T>
static void load_block(const S* rows, int64_t row_stride, int64_t channels, int64_t positions, T* block) {
  constexpr int64_t width = kChannels<T>;
  if (channels < width) {
    for (int64_t i = 0; i < positions; ++i) {
      for (int64_t c = channels; c < width; ++c) block[i * width + c] = 0;
    }
  }
  if constexpr (sizeof(S) == sizeof(T)) {
    transpose<sizeof(S)>(rows, row_stride, block, width, channels, positions);
  } else {
    alignas(64) S chunk[kChunk * width];
    for (int64_t begin = 0; begin < positions; begin += kChunk) {
      const int64_t count = smaller(kChunk, positions - begin);
      transpose<sizeof(S)>(rows + begin, row_stride, chunk, width, channels, count);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < (channels < width ? channels : width); ++c) {
          block[(begin + i) * width + c] = number(chunk[i * width + c]);
        }
      }
    }
  }
}

// Writes a block to rows of S, one per channel.
template <typename S, typename T>
static void store_block(const T* block, int64_t channels, int64_t positions, S* rows, int64_t row_stride) {
  constexpr int64_t width = kChannels<T>;
  if constexpr (sizeof(S) == sizeof(T)) {
    transpose<sizeof(S)>(block, width, rows, row_stride, positions, channels);
  } else {
    alignas(64) S chunk[kChunk * width];
    for (int64_t begin = 0; begin < positions; begin += kChunk) {
      const int64_t count = smaller(kChunk, positions - begin);
      for (int64_t i = 0; i < count * width; ++i) chunk[i] = stored<S>(block[begin * width + i]);
      transpose<sizeof(S)>(chunk, width, rows + begin, row_stride, count, channels);
    }
  }
}

// Writes to memory past the caches. Incomplete cache lines at each end are written through the caches.
static void stream(const void* from_data, void* to_data, int64_t bytes) {
  const char* from = static_cast<const char*>(from_data);
  char* to = static_cast<char*>(to_data);
  int64_t at = 0;
#if defined(__x86_64__)
  at = smaller<int64_t>(-reinterpret_cast<uintptr_t>(to) % 64, bytes);
  __builtin_memcpy(to, from, at);
  for (; at + kVectorBytes <= bytes; at += kVectorBytes) {
#if FAST_RFCN_VECTOR_BYTES == 64
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), _mm512_loadu_si512(from + at));
#elif FAST_RFCN_VECTOR_BYTES == 32
    const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(from + at));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at), value);
#else
    const __m128i value = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from + at));
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), value);
#endif
  }
#endif
  __builtin_memcpy(to + at, from + at, bytes - at);
}

// Writes a block of numbers of `size` bytes to consecutive rows, with `past_caches` past the caches.
template <int size>
static void put_rows(const void* block, int64_t width, int64_t channels, int64_t positions, void* rows,
                     bool past_caches) {
  if (!past_caches) return transpose<size>(block, width, rows, positions, positions, channels);
  char* staged = Scratch::take<char>(4, channels * positions * size);
  transpose<size>(block, width, staged, positions, positions, channels);
  stream(staged, rows, channels * positions * size);
}

// Writes the outputs [channels][positions] of one RoI from its block.
template <typename S, typename T>
static void put_outputs(const T* block, int64_t channels, int64_t positions, S* rows, bool past_caches) {
  constexpr int64_t width = kChannels<T>;
  if constexpr (sizeof(S) == sizeof(T)) {
    put_rows<sizeof(S)>(block, width, channels, positions, rows, past_caches);
  } else {
    S* rounded = Scratch::take<S>(3, positions * width);
    for (int64_t i = 0; i < positions * width; ++i) rounded[i] = stored<S>(block[i]);
    put_rows<sizeof(S)>(rounded, width, channels, positions, rows, past_caches);
  }
}

// Fills the slab of one task: the cells of an image for one block of channels, from features of any strides.
template <typename S, typename T>
static void load_slab(const MapView& map, int64_t image, int64_t channel, int64_t channels, T* slab) {
  const S* origin = static_cast<const S*>(map.data) + image * map.stride[0] + channel * map.stride[1];
  if (map.planes_are_dense()) return load_block<S, T>(origin, map.stride[1], channels, map.cells(), slab);
  constexpr int64_t width = kChannels<T>;
  for (int64_t y = 0; y < map.height; ++y) {
    for (int64_t x = 0; x < map.width; ++x, slab += width) {
      const S* cell = origin + y * map.stride[2] + x * map.stride[3];
      if (map.stride[1] == 1 && channels == width) {
        for (int64_t c = 0; c < width; ++c) slab[c] = number(cell[c]);
      } else {
        for (int64_t c = 0; c < width; ++c) slab[c] = c < channels ? number(cell[c * map.stride[1]]) : T{0};
      }
    }
  }
}

template <typename T>
static bool has_nan(const T* block, int64_t positions) {
  Index<T> found = {};
  const Vector<T>* values = vectors(block);
  for (int64_t i = 0; i < positions * kVectors; ++i) found |= values[i] != values[i];
  return any_lane<T>(found);
}
