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

// The rows of x and of the kernel that an output row reads.
template <typename S, typename T>
struct Rows {
  TapAt<S, T> at[kLargestKernel];
  int count = 0;
};

// Computes outputs of a row for all channels from `from` on. Each sum runs over the columns of x from left to right, and
// in each column over the rows from top to bottom. A known Stride needs no division.
template <typename S, typename T, int Stride>
static void convolve_outputs(const DepthwisePlan& plan, const Rows<S, T>& rows, int64_t from, S* output) {
  constexpr int lanes = kLanes<T>, many = 6, few = 2;  // vectors; each sum waits for its last addition
  const int64_t channels = plan.channels;
  const T* bias = static_cast<const T*>(plan.bias);
  for (int64_t column = 0; column < plan.out_width; ++column, output += channels) {
    TapAt<S, T> taps[kLargestKernel * kLargestKernel];
    int count = 0;
    for (int64_t step = 0; step < plan.k; ++step) {
      const int64_t j = plan.transposed ? plan.k - 1 - step : step;  // from left to right
      const int64_t at = plan.met<Stride>(column, j);
      if (at < 0 || at >= plan.width) continue;
      for (int i = 0; i < rows.count; ++i) {
        taps[count++] = {rows.at[i].x + at * channels, rows.at[i].weight + j * channels};
      }
    }
    int64_t channel = from;
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

// A row of outputs of a 3x3 kernel with stride 1 for N vectors of channels: each cell of x is read once for three
// outputs, which are `dilation` columns apart. The order of the sums is that of convolve_outputs.
template <typename S, typename T, int R, int N>
static void slide(const DepthwisePlan& plan, const Rows<S, T>& rows, int64_t channel, S* output) {
  constexpr int lanes = kLanes<T>;
  const int64_t channels = plan.channels, rate = plan.dilation;
  const int64_t left = plan.transposed ? plan.padding - 2 * rate : -plan.padding;  // first column that output 0 reads
  Vector<T> weight[3][R][N], start[N];
  for (int n = 0; n < N; ++n) start[n] = loaded<T>(static_cast<const T*>(plan.bias) + channel + n * lanes);
  for (int step = 0; step < 3; ++step) {
    for (int i = 0; i < R; ++i) {
      const T* from = rows.at[i].weight + (plan.transposed ? 2 - step : step) * channels + channel;
      for (int n = 0; n < N; ++n) weight[step][i][n] = loaded<T>(from + n * lanes);
    }
  }
  for (int64_t first = 0; first < smaller(rate, plan.out_width); ++first) {
    Vector<T> before[N], last[N];  // sums of the outputs that have two and one more columns to read
    for (int n = 0; n < N; ++n) before[n] = start[n], last[n] = start[n];
    for (int64_t column = first - 2 * rate; column < plan.out_width; column += rate) {
      const int64_t at = column + 2 * rate + left;  // the last column of x that output `column` reads
      Vector<T> next[N];
      for (int n = 0; n < N; ++n) next[n] = start[n];
      if (at >= 0 && at < plan.width) {
        for (int i = 0; i < R; ++i) {
          const S* x = rows.at[i].x + at * channels + channel;
          for (int n = 0; n < N; ++n) {
            const Vector<T> value = loaded<T>(x + n * lanes);
            next[n] += weight[0][i][n] * value;
            last[n] += weight[1][i][n] * value;
            before[n] += weight[2][i][n] * value;
          }
        }
      }
      if (column >= 0) {
        for (int n = 0; n < N; ++n) put<T>(before[n], output + column * channels + channel + n * lanes);
      }
      for (int n = 0; n < N; ++n) before[n] = last[n], last[n] = next[n];
    }
  }
}

// Computes as many channels as fill vectors. Returns their number.
template <typename S, typename T, int R>
static int64_t slide_row(const DepthwisePlan& plan, const Rows<S, T>& rows, S* output) {
  constexpr int lanes = kLanes<T>, two = kVectorBytes == 64 ? 2 : 1;  // as many as the registers hold
  int64_t channel = 0;
  for (; channel + two * lanes <= plan.channels; channel += two * lanes) {
    slide<S, T, R, two>(plan, rows, channel, output);
  }
  for (; channel + lanes <= plan.channels; channel += lanes) slide<S, T, R, 1>(plan, rows, channel, output);
  return channel;
}

template <typename S, typename T>
static void convolve_row(const DepthwisePlan& plan, int64_t task) {
  const int64_t image = task / plan.out_height, row = task % plan.out_height, channels = plan.channels;
  const S* x = static_cast<const S*>(plan.x) + image * plan.height * plan.width * channels;
  const T* kernel = static_cast<const T*>(plan.kernel);
  S* output = static_cast<S*>(plan.output) + task * plan.out_width * channels;
  Rows<S, T> rows;
  for (int64_t i = 0; i < plan.k; ++i) {
    const int64_t y = plan.met(row, i);
    if (y < 0 || y >= plan.height) continue;
    rows.at[rows.count++] = {x + y * plan.width * channels, kernel + i * plan.k * channels};
  }
  if (plan.stride > 1) {
    return plan.stride == 2 ? convolve_outputs<S, T, 2>(plan, rows, 0, output)
                            : convolve_outputs<S, T, 0>(plan, rows, 0, output);
  }
  int64_t done = 0;
  if (plan.k == 3 && rows.count == 1) done = slide_row<S, T, 1>(plan, rows, output);
  if (plan.k == 3 && rows.count == 2) done = slide_row<S, T, 2>(plan, rows, output);
  if (plan.k == 3 && rows.count == 3) done = slide_row<S, T, 3>(plan, rows, output);
  if (done < channels) convolve_outputs<S, T, 1>(plan, rows, done, output);
}

// Outputs of a row whose tap j reads inside x.
struct Span {
  int64_t first, end;
};

FAST_RFCN_INLINE Span span_of(const DepthwisePlan& plan, int64_t j) {
  const int64_t start = plan.met(0, j);  // column of x that the first output reads
  const int64_t first = start < 0 ? (-start + plan.stride - 1) / plan.stride : 0;
  const int64_t end = smaller(plan.out_width, (plan.width - start + plan.stride - 1) / plan.stride);
  return {smaller(first, end), end};
}

// Calls f(i, first cell of the row of outputs, first cell of the row of x) for every row of outputs and every row i of
// the kernel that reads inside x there.
template <typename F>
FAST_RFCN_INLINE void for_each_row(const DepthwisePlan& plan, const F& f) {
  for (int64_t image = 0; image < plan.images; ++image) {
    for (int64_t row = 0; row < plan.out_height; ++row) {
      for (int64_t i = 0; i < plan.k; ++i) {
        const int64_t y = plan.met(row, i);
        if (y < 0 || y >= plan.height) continue;
        f(i, (image * plan.out_height + row) * plan.out_width, (image * plan.height + y) * plan.width);
      }
    }
  }
}

// The gradient of all taps of a K x K kernel for N vectors of channels. Each row has its own sum, so that small addends
// are not lost. Outputs whose taps all read inside x load their gradient once.
template <typename S, typename T, int K, int N>
static void weigh_vectors(const DepthwisePlan& plan, int64_t channel) {
  constexpr int lanes = kLanes<T>;
  const int64_t channels = plan.channels, step = plan.stride * channels, apart = plan.dilation * channels;
  const S* grads = static_cast<const S*>(plan.kernel) + channel;
  const S* xs = static_cast<const S*>(plan.x) + channel;
  Span spans[K];
  for (int j = 0; j < K; ++j) spans[j] = span_of(plan, j);
  const int64_t first = smaller(spans[0].first, spans[K - 1].end), end = larger(first, spans[K - 1].end);
  Vector<T> total[K][K][N] = {};
  for_each_row(plan, [&](int64_t i, int64_t grad_row, int64_t x_row) {
    Vector<T> sum[K][N] = {};
    const auto add = [&](int64_t begin, int64_t cells, int from, int to) __attribute__((always_inline)) {
      const S* grad = grads + (grad_row + begin) * channels;
      const S* x = xs + (x_row + plan.met(begin, 0)) * channels;
      for (int64_t cell = 0; cell < cells; ++cell, grad += channels, x += step) {
        Vector<T> slope[N];
        for (int n = 0; n < N; ++n) slope[n] = loaded<T>(grad + n * lanes);
        for (int j = from; j < to; ++j) {
          for (int n = 0; n < N; ++n) sum[j][n] += slope[n] * loaded<T>(x + j * apart + n * lanes);
        }
      }
    };
    for (int j = 0; j < K; ++j) {
      add(spans[j].first, smaller(first, spans[j].end) - spans[j].first, j, j + 1);
    }
    add(first, end - first, 0, K);
    for (int j = 0; j < K; ++j) {
      const int64_t begin = larger(end, spans[j].first);
      add(begin, spans[j].end - begin, j, j + 1);
    }
    for (int j = 0; j < K; ++j) {
      for (int n = 0; n < N; ++n) total[i][j][n] += sum[j][n];
    }
  });
  T* output = static_cast<T*>(plan.output) + channel;
  for (int tap = 0; tap < K * K; ++tap) {
    for (int n = 0; n < N; ++n) put<T>(total[tap / K][tap % K][n], output + tap * channels + n * lanes);
  }
}

// Adds the sums of one row of outputs with stride 1, for N vectors of channels and R rows of x, to `total` [R][3]. Each
// cell of x is read once for the three outputs that read it, which are `dilation` columns apart.
template <typename S, typename T, int R, int N>
static void weigh_row(const DepthwisePlan& plan, const S* grad, const S* const* xs, Vector<T> (*total)[3][N]) {
  constexpr int lanes = kLanes<T>;
  const int64_t channels = plan.channels, rate = plan.dilation;
  Vector<T> sum[R][3][N] = {};
  for (int64_t start = 0; start < smaller(rate, plan.out_width); ++start) {
    Vector<T> slope[3][N] = {};  // of the outputs that read the cell with tap 0, 1, 2
    for (int64_t column = start; column < plan.out_width + 2 * rate; column += rate) {
      for (int n = 0; n < N; ++n) slope[2][n] = slope[1][n], slope[1][n] = slope[0][n];
      const bool reads[3] = {column < plan.out_width, column >= rate && column - rate < plan.out_width,
                             column >= 2 * rate};
      if (reads[0]) {
        for (int n = 0; n < N; ++n) slope[0][n] = loaded<T>(grad + column * channels + n * lanes);
      }
      const int64_t at = column - plan.padding;
      if (at < 0 || at >= plan.width) continue;
      if (reads[0] && reads[1] && reads[2]) {
        for (int i = 0; i < R; ++i) {
          for (int n = 0; n < N; ++n) {
            const Vector<T> x = loaded<T>(xs[i] + at * channels + n * lanes);
            for (int j = 0; j < 3; ++j) sum[i][j][n] += slope[j][n] * x;
          }
        }
        continue;
      }
      for (int i = 0; i < R; ++i) {
        for (int n = 0; n < N; ++n) {
          const Vector<T> x = loaded<T>(xs[i] + at * channels + n * lanes);
          if (reads[0]) sum[i][0][n] += slope[0][n] * x;
          if (reads[1]) sum[i][1][n] += slope[1][n] * x;
          if (reads[2]) sum[i][2][n] += slope[2][n] * x;
        }
      }
    }
  }
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < 3; ++j) {
      for (int n = 0; n < N; ++n) total[i][j][n] += sum[i][j][n];
    }
  }
}

// The gradient of a 3x3 kernel with stride 1 for N vectors of channels.
template <typename S, typename T, int N>
static void weigh_sliding(const DepthwisePlan& plan, int64_t channel) {
  constexpr int lanes = kLanes<T>;
  const int64_t channels = plan.channels;
  Vector<T> total[3][3][N] = {};
  for (int64_t task = 0; task < plan.images * plan.out_height; ++task) {
    const int64_t image = task / plan.out_height, row = task % plan.out_height;
    const S* grad = static_cast<const S*>(plan.kernel) + task * plan.out_width * channels + channel;
    const S* xs[3];
    int64_t first = 3;  // rows of the kernel that read inside x are neighbours
    int count = 0;
    for (int64_t i = 0; i < 3; ++i) {
      const int64_t y = plan.met(row, i);
      if (y < 0 || y >= plan.height) continue;
      first = smaller(first, i);
      xs[count++] = static_cast<const S*>(plan.x) + (image * plan.height + y) * plan.width * channels + channel;
    }
    if (count == 1) weigh_row<S, T, 1, N>(plan, grad, xs, total + first);
    if (count == 2) weigh_row<S, T, 2, N>(plan, grad, xs, total + first);
    if (count == 3) weigh_row<S, T, 3, N>(plan, grad, xs, total + first);
  }
  T* output = static_cast<T*>(plan.output) + channel;
  for (int tap = 0; tap < 9; ++tap) {
    for (int n = 0; n < N; ++n) put<T>(total[tap / 3][tap % 3][n], output + tap * channels + n * lanes);
  }
}

template <typename S, typename T, int K>
static void weigh_channel(const DepthwisePlan& plan, int64_t channel) {
  const int64_t channels = plan.channels;
  const S* grads = static_cast<const S*>(plan.kernel) + channel;
  const S* xs = static_cast<const S*>(plan.x) + channel;
  T total[K][K] = {};
  for_each_row(plan, [&](int64_t i, int64_t grad_row, int64_t x_row) {
    for (int j = 0; j < K; ++j) {
      T sum = 0;
      const Span span = span_of(plan, j);
      const int64_t rate = K == 3 && plan.stride == 1 ? plan.dilation : 1;  // the order of weigh_row
      for (int64_t start = 0; start < rate; ++start) {
        for (int64_t cell = start; cell < span.end; cell += rate) {
          if (cell < span.first) continue;
          sum += number(grads[(grad_row + cell) * channels]) * number(xs[(x_row + plan.met(cell, j)) * channels]);
        }
      }
      total[i][j] += sum;
    }
  });
  T* output = static_cast<T*>(plan.output) + channel;
  for (int tap = 0; tap < K * K; ++tap) output[tap * channels] = total[tap / K][tap % K];
}

template <typename S, typename T, int K>
static void weigh_block(const DepthwisePlan& plan, int64_t task) {
  constexpr int lanes = kLanes<T>, few = 2;  // vectors
  int64_t channel = task * kChannels<T>;
  const int64_t end = smaller(channel + kChannels<T>, plan.channels);
  if constexpr (K == 3) {
    constexpr int two = kVectorBytes == 64 ? 2 : 1;  // as many as the registers hold
    if (plan.stride == 1) {
      for (; channel + two * lanes <= end; channel += two * lanes) weigh_sliding<S, T, two>(plan, channel);
      for (; channel + lanes <= end; channel += lanes) weigh_sliding<S, T, 1>(plan, channel);
    }
  }
  for (; channel + few * lanes <= end; channel += few * lanes) weigh_vectors<S, T, K, few>(plan, channel);
  for (; channel + lanes <= end; channel += lanes) weigh_vectors<S, T, K, 1>(plan, channel);
  for (; channel < end; ++channel) weigh_channel<S, T, K>(plan, channel);
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
  depthwise_typed(plan.dtype, [&](auto storage, auto sum) {
    using S = decltype(storage);
    using T = decltype(sum);
    switch (plan.k) {
      case 1:
        return weigh_block<S, T, 1>(plan, task);
      case 3:
        return weigh_block<S, T, 3>(plan, task);
      case 5:
        return weigh_block<S, T, 5>(plan, task);
      default:
        return weigh_block<S, T, kLargestKernel>(plan, task);
    }
  });
}
