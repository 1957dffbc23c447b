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

// Three gates of a row of [3H], H values apart.
template <typename T, int V>
__device__ inline void read_gates(
    const T* at, int H, int count, bool whole,
    float (&r)[V], float (&z)[V], float (&n)[V]) {
  read_values<T, V>(at, count, whole, r);
  read_values<T, V>(at + H, count, whole, z);
  read_values<T, V>(at + 2 * H, count, whole, n);
}

template <typename T, int V>
__device__ inline void write_gates(
    T* at, int H, int count, bool whole,
    const float (&r)[V], const float (&z)[V], const float (&n)[V]) {
  write_values<T, V>(at, count, whole, r);
  write_values<T, V>(at + H, count, whole, z);
  write_values<T, V>(at + 2 * H, count, whole, n);
}
