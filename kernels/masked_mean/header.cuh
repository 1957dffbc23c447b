// Sixteen-byte access for the masked mean.

template <typename T, int V>
struct alignas(sizeof(T) * V) FeaturePack {
  T item[V];
};

// Mask of token t, 0 from token `last` on.
__device__ inline float
weight_at(const float* row_mask, int t, int last) {
  return t < last ? row_mask[t] : 0.0f;
}

// V neighbouring features of token t in one access, zeros when its weight is 0. The
// address must be a multiple of the pack.
template <typename T, int V>
__device__ inline FeaturePack<T, V>
features_at(const T* rows, int t, int width, float weight) {
  FeaturePack<T, V> pack;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    pack.item[j] = static_cast<T>(0.0f);
  }
  if (weight != 0.0f) {
    const T* at = rows + static_cast<size_t>(t) * width;
    pack = *reinterpret_cast<const FeaturePack<T, V>*>(at);
  }
  return pack;
}
