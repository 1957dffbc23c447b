// Sixteen-byte access and sums over a warp for the layer norm.

template <typename T, int V>
struct alignas(sizeof(T) * V) NormPack {
  T item[V];
};

// V neighbouring features, `count` of them inside the row; zeros beyond.
template <typename T, int V>
__device__ inline NormPack<T, V>
features_at(const T* at, int count) {
  NormPack<T, V> pack;
  if (count >= V && reinterpret_cast<size_t>(at) % (V * sizeof(T)) == 0) {
    pack = *reinterpret_cast<const NormPack<T, V>*>(at);
  } else {
    for (int j = 0; j < V; ++j) {
      pack.item[j] = j < count ? at[j] : static_cast<T>(0.0f);
    }
  }
  return pack;
}

// Sum over the lanes of a warp, the same in each of them.
__device__ inline float
sum_of_warp(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, step);
  }
  return x;
}
