// Gates and sixteen-byte access of the GRU blend.

template <typename T, int V>
struct alignas(sizeof(T) * V) GatePack {
  T item[V];
};

// No overflow: the exponential is at most 1.
__device__ inline float gate_of(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// V neighbouring values as float, those from `count` on as 0. With `whole` the address
// must be a multiple of the pack.
template <typename T, int V>
__device__ inline void
read_values(const T* at, int count, bool whole, float (&value)[V]) {
  if (whole) {
    const GatePack<T, V> pack = *reinterpret_cast<const GatePack<T, V>*>(at);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      value[j] = static_cast<float>(pack.item[j]);
    }
  } else {
    for (int j = 0; j < V; ++j) {
      value[j] = j < count ? static_cast<float>(at[j]) : 0.0f;
    }
  }
}

template <typename T, int V>
__device__ inline void
write_values(T* at, int count, bool whole, const float (&value)[V]) {
  if (whole) {
    GatePack<T, V> pack;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      pack.item[j] = static_cast<T>(value[j]);
    }
    *reinterpret_cast<GatePack<T, V>*>(at) = pack;
  } else {
    for (int j = 0; j < V && j < count; ++j) {
      at[j] = static_cast<T>(value[j]);
    }
  }
}
