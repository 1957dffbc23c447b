// Sixteen-byte access for the linear cross entropy.

template <typename T, int V>
struct alignas(sizeof(T) * V) LogitPack {
  T item[V];
};

// V neighbouring logits; wide where the address is a multiple of the pack.
template <typename T, int V>
__device__ inline LogitPack<T, V>
logits_at(const T* at) {
  LogitPack<T, V> pack;
  if (reinterpret_cast<size_t>(at) % (V * sizeof(T)) == 0) {
    pack = *reinterpret_cast<const LogitPack<T, V>*>(at);
  } else {
    for (int j = 0; j < V; ++j) {
      pack.item[j] = at[j];
    }
  }
  return pack;
}
