// Depthwise convolution for one instruction set; see for_each_instruction_set.h. For each channel, sums run over taps
// or cells in a fixed order, so results do not depend on vectors or threads.

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// Loads a vector of numbers from any address.
template <typename T, typename S>
FAST_RFCN_INLINE Vector<T> loaded(const S* from) {
  if constexpr (sizeof(S) == sizeof(T)) {
    Vector<T> vector;
    __builtin_memcpy(&vector, from, sizeof(vector));
    return vector;
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
    typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
    Narrow narrow;
    __builtin_memcpy(&narrow, from, sizeof(narrow));
    return (Vector<T>)(__builtin_convertvector(narrow, Wide) << 16);
  } else {
    Vector<T> vector;
    for (int lane = 0; lane < kLanes<T>; ++lane) vector[lane] = number(from[lane]);
    return vector;
  }
}

template <typename T, typename S>
FAST_RFCN_INLINE void put(Vector<T> vector, S* to) {
  if constexpr (sizeof(S) == sizeof(T)) {
    __builtin_memcpy(to, &vector, sizeof(vector));
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
    typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
    const Wide bits = (Wide)vector;
    const Wide rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Wide is_number = (Wide)(vector == vector);
    const Narrow narrow = __builtin_convertvector((rounded & is_number) | (0x7fc0u & ~is_number), Narrow);
    __builtin_memcpy(to, &narrow, sizeof(narrow));
  } else {
    for (int lane = 0; lane < kLanes<T>; ++lane) to[lane] = stored<S>(vector[lane]);
  }
}

template <typename S, typename T>
struct TapAt {
  const S* x;
  const T* weight;
};

// Computes N vectors of channels of one output.
template <typename S, typename T, int N>
FAST_RFCN_INLINE void convolve_vectors(const TapAt<S, T>* taps, int count, const T* bias, int64_t channel, S* output) {
  constexpr int lanes = kLanes<T>;
  Vector<T> sum[N];
  for (int n = 0; n < N; ++n) sum[n] = loaded<T>(bias + channel + n * lanes);
  for (int tap = 0; tap < count; ++tap) {
    const S* x = taps[tap].x + channel;
    const T* weight = taps[tap].weight + channel;
    for (int n = 0; n < N; ++n) sum[n] += loaded<T>(weight + n * lanes) * loaded<T>(x + n * lanes);
  }
  for (int n = 0; n < N; ++n) put<T>(sum[n], output + channel + n * lanes);
}

template <typename S, typename T>
static void convolve_row(const DepthwisePlan& plan, int64_t task) {
  const int64_t image = task / plan.out_height, row = task % plan.out_height, channels = plan.channels;
  const S* x = static_cast<const S*>(plan.x) + image * plan.height * plan.width * channels;
  const T* kernel = static_cast<const T*>(plan.kernel);
  const T* bias = static_cast<const T*>(plan.bias);
  S* output = static_cast<S*>(plan.output) + task * plan.out_width * channels;
  TapAt<S, T> rows[kLargestKernel];
  int num_rows = 0;
  for (int64_t i = 0; i < plan.k; ++i) {
    const int64_t y = plan.met(row, i);
    if (y < 0 || y >= plan.height) continue;
    rows[num_rows++] = {x + y * plan.width * channels, kernel + i * plan.k * channels};
  }
  for (int64_t column = 0; column < plan.out_width; ++column, output += channels) {
    int64_t cells[kLargestKernel], weights[kLargestKernel];  // offsets in a row of x and of the kernel
    int num_columns = 0;
    for (int64_t j = 0; j < plan.k; ++j) {
      const int64_t at = plan.met(column, j);
      if (at < 0 || at >= plan.width) continue;
      cells[num_columns] = at * channels, weights[num_columns++] = j * channels;
    }
    TapAt<S, T> taps[kLargestKernel * kLargestKernel];
    int count = 0;
    for (int i = 0; i < num_rows; ++i) {
      for (int j = 0; j < num_columns; ++j) taps[count++] = {rows[i].x + cells[j], rows[i].weight + weights[j]};
    }
    constexpr int lanes = kLanes<T>, many = 6, few = 2;  // vectors; each sum waits for its last addition
    int64_t channel = 0;
    for (; channel + many * lanes <= channels; channel += many * lanes) {
      convolve_vectors<S, T, many>(taps, count, bias, channel, output);
    }
    for (; channel + few * lanes <= channels; channel += few * lanes) {
      convolve_vectors<S, T, few>(taps, count, bias, channel, output);
    }
    for (; channel + lanes <= channels; channel += lanes) {
      convolve_vectors<S, T, 1>(taps, count, bias, channel, output);
    }
    for (; channel < channels; ++channel) {
      T sum = bias[channel];
      for (int tap = 0; tap < count; ++tap) sum += taps[tap].weight[channel] * number(taps[tap].x[channel]);
      if constexpr (sizeof(S) == sizeof(T)) {
        output[channel] = sum;
      } else {
        output[channel] = stored<S>(sum);
      }
    }
  }
}

// Calls f(tap, first output cell, first cell of x, number of cells) for every row of outputs and every tap that reads
// inside x there. The cells of x are `stride` apart.
template <typename F>
FAST_RFCN_INLINE void for_each_run(const DepthwisePlan& plan, const F& f) {
  for (int64_t image = 0; image < plan.images; ++image) {
    for (int64_t row = 0; row < plan.out_height; ++row) {
      for (int64_t i = 0; i < plan.k; ++i) {
        const int64_t y = plan.met(row, i);
        if (y < 0 || y >= plan.height) continue;
        for (int64_t j = 0; j < plan.k; ++j) {
          const int64_t start = plan.met(0, j);  // in x, of the first output
          const int64_t first = start < 0 ? (-start + plan.stride - 1) / plan.stride : 0;
          const int64_t end = smaller(plan.out_width, (plan.width - start + plan.stride - 1) / plan.stride);
          if (first >= end) continue;
          const int64_t grad = (image * plan.out_height + row) * plan.out_width + first;
          const int64_t x = (image * plan.height + y) * plan.width + plan.met(first, j);
          f(i * plan.k + j, grad, x, end - first);
        }
      }
    }
  }
}

// The gradient of all taps for N vectors of channels. Each row has its own sum, so that small addends are not lost.
template <typename S, typename T, int N>
static void weigh_vectors(const DepthwisePlan& plan, int64_t channel) {
  constexpr int lanes = kLanes<T>;
  const int64_t channels = plan.channels, step = plan.stride * channels;
  const S* grads = static_cast<const S*>(plan.kernel) + channel;
  const S* xs = static_cast<const S*>(plan.x) + channel;
  Vector<T> total[kLargestKernel * kLargestKernel][N] = {};
  for_each_run(plan, [&](int64_t tap, int64_t grad_cell, int64_t x_cell, int64_t length) {
    const S* grad = grads + grad_cell * channels;
    const S* x = xs + x_cell * channels;
    constexpr int ahead = 4;  // cells with a sum each, because a sum waits for its last addition
    Vector<T> sum[ahead][N] = {};
    int64_t cell = 0;
    for (; cell + ahead <= length; cell += ahead, grad += ahead * channels, x += ahead * step) {
      for (int i = 0; i < ahead; ++i) {
        for (int n = 0; n < N; ++n) {
          sum[i][n] += loaded<T>(grad + i * channels + n * lanes) * loaded<T>(x + i * step + n * lanes);
        }
      }
    }
    for (; cell < length; ++cell, grad += channels, x += step) {
      for (int n = 0; n < N; ++n) sum[0][n] += loaded<T>(grad + n * lanes) * loaded<T>(x + n * lanes);
    }
    for (int n = 0; n < N; ++n) total[tap][n] += (sum[0][n] + sum[1][n]) + (sum[2][n] + sum[3][n]);
  });
  T* output = static_cast<T*>(plan.output) + channel;
  for (int64_t tap = 0; tap < plan.k * plan.k; ++tap) {
    for (int n = 0; n < N; ++n) put<T>(total[tap][n], output + tap * channels + n * lanes);
  }
}

template <typename S, typename T>
static void weigh_channel(const DepthwisePlan& plan, int64_t channel) {
  const int64_t channels = plan.channels, step = plan.stride * channels;
  const S* grads = static_cast<const S*>(plan.kernel) + channel;
  const S* xs = static_cast<const S*>(plan.x) + channel;
  T total[kLargestKernel * kLargestKernel] = {};
  for_each_run(plan, [&](int64_t tap, int64_t grad_cell, int64_t x_cell, int64_t length) {
    T sum = 0;
    for (int64_t cell = 0; cell < length; ++cell) {
      sum += number(grads[(grad_cell + cell) * channels]) * number(xs[x_cell * channels + cell * step]);
    }
    total[tap] += sum;
  });
  T* output = static_cast<T*>(plan.output) + channel;
  for (int64_t tap = 0; tap < plan.k * plan.k; ++tap) output[tap * channels] = total[tap];
}

template <typename S, typename T>
static void weigh_block(const DepthwisePlan& plan, int64_t task) {
  constexpr int lanes = kLanes<T>;
  int64_t channel = task * kChannels<T>;
  const int64_t end = smaller(channel + kChannels<T>, plan.channels);
  if (end - channel == kChannels<T>) return weigh_vectors<S, T, kVectors>(plan, channel);
  for (; channel + lanes <= end; channel += lanes) weigh_vectors<S, T, 1>(plan, channel);
  for (; channel < end; ++channel) weigh_channel<S, T>(plan, channel);
}

template <typename F>
static inline void depthwise_typed(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double:
      return f(double{}, double{});
    case ScalarType::Half:
      return f(Half{}, float{});
    case ScalarType::BFloat16:
      return f(BFloat16{}, float{});
    default:
      return f(float{}, float{});
  }
}

static void depthwise_row(const DepthwisePlan& plan, int64_t task) {
  depthwise_typed(plan.dtype,
                  [&](auto storage, auto sum) { convolve_row<decltype(storage), decltype(sum)>(plan, task); });
}

static void depthwise_weights(const DepthwisePlan& plan, int64_t task) {
  depthwise_typed(plan.dtype,
                  [&](auto storage, auto sum) { weigh_block<decltype(storage), decltype(sum)>(plan, task); });
}
