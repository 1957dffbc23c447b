// Sixteen-byte access for GELU.

template <typename T, int V>
struct alignas(sizeof(T) * V) GeluPack {
  T item[V];
};
