// Sixteen-byte access for the linear cross entropy.

template <typename T, int V>
struct alignas(sizeof(T) * V) LogitPack {
  T item[V];
};

// V neighbouring logits, `count` of them inside the row; zeros beyond.
template <typename T, int V>
__device__ inline LogitPack<T, V>
logits_at(const T* at, bool whole, int count) {
  LogitPack<T, V> pack;
  if (whole) {
    pack = *reinterpret_cast<const LogitPack<T, V>*>(at);
  } else {
    for (int j = 0; j < V; ++j) {
      pack.item[j] = j < count ? at[j] : static_cast<T>(0.0f);
    }
  }
  return pack;
}
