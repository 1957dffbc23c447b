// Sixteen-byte access for the masked mean.

template <typename T, int V>
struct alignas(sizeof(T) * V) FeaturePack {
  T item[V];
};

// V neighbouring features from `at`. `whole`: all V exist and the address is a
// multiple of the pack; otherwise they are read one by one and those from `count` on
// are zero.
template <typename T, int V>
__device__ inline FeaturePack<T, V> load_features(const T* at, bool whole, int count) {
  FeaturePack<T, V> pack;
  if (whole) {
    pack = *reinterpret_cast<const FeaturePack<T, V>*>(at);
  } else {
    for (int j = 0; j < V; ++j) {
      pack.item[j] = j < count ? at[j] : static_cast<T>(0.0f);
    }
  }
  return pack;
}
