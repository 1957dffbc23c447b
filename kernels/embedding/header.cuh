// Wide access for the embedding.

template <typename T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) EmbeddingPack {
  T item[V];
};

// V neighbouring elements, `count` of them inside the row; zeros beyond.
template <typename T, int V>
__device__ inline EmbeddingPack<T, V>
elements_at(const T* at, bool whole, int count) {
  EmbeddingPack<T, V> pack;
  if (whole) {
    pack = *reinterpret_cast<const EmbeddingPack<T, V>*>(at);
  } else {
    for (int j = 0; j < V; ++j) {
      pack.item[j] = j < count ? at[j] : static_cast<T>(0.0f);
    }
  }
  return pack;
}

// Whether packs of a matrix may be read as such: base and rows are aligned.
template <typename T, int V>
__device__ inline bool
is_wide(const T* base, int width) {
  return width % V == 0 &&
      reinterpret_cast<size_t>(base) % alignof(EmbeddingPack<T, V>) == 0;
}

// Adds the rows of positions first..last to the sum, in order; eight loads at a time.
template <typename T, int V>
__device__ inline void
add_positions(
    float* sum,
    const T* grad,
    const unsigned int* order,
    int first,
    int last,
    int width,
    int d,
    bool wide,
    int count) {
  constexpr int UNROLL = 8;
  int p = first;
  for (; p + UNROLL <= last; p += UNROLL) {
    EmbeddingPack<T, V> pack[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const T* row = grad + static_cast<size_t>(order[p + u]) * width + d;
      pack[u] = elements_at<T, V>(row, wide, count);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        sum[j] += static_cast<float>(pack[u].item[j]);
      }
    }
  }
  for (; p < last; ++p) {
    const T* row = grad + static_cast<size_t>(order[p]) * width + d;
    const EmbeddingPack<T, V> pack = elements_at<T, V>(row, wide, count);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sum[j] += static_cast<float>(pack.item[j]);
    }
  }
}

// Adds the sums of chunks first..last, in order; four loads at a time.
template <int V>
__device__ inline void
add_chunks(
    float* sum, const float* partial, int first, int last, int width, int d, int count) {
  constexpr int UNROLL = 4;
  const bool wide = is_wide<float, V>(partial, width);
  int c = first;
  for (; c + UNROLL <= last; c += UNROLL) {
    EmbeddingPack<float, V> pack[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const float* row = partial + static_cast<size_t>(c + u) * width + d;
      pack[u] = elements_at<float, V>(row, wide, count);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        sum[j] += pack[u].item[j];
      }
    }
  }
  for (; c < last; ++c) {
    const float* row = partial + static_cast<size_t>(c) * width + d;
    const EmbeddingPack<float, V> pack = elements_at<float, V>(row, wide, count);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sum[j] += pack.item[j];
    }
  }
}
