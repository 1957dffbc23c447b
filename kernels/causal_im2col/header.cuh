// Sixteen-byte access for the columns of a causal convolution.

template <typename T, int V>
struct alignas(sizeof(T) * V) ChannelPack {
  T item[V];
};

// V neighbouring channels from `at`. `whole`: all V exist and the address is a
// multiple of the pack; otherwise the first `count` are read one by one.
template <typename T, int V>
__device__ inline ChannelPack<T, V> load_channels(const T* at, bool whole, int count) {
  ChannelPack<T, V> pack;
  if (whole) {
    pack = *reinterpret_cast<const ChannelPack<T, V>*>(at);
  } else {
    for (int j = 0; j < V; ++j) {
      pack.item[j] = j < count ? at[j] : static_cast<T>(0.0f);
    }
  }
  return pack;
}

// Writes the first `count` of the pack, in one access when `whole`.
template <typename T, int V>
__device__ inline void
store_channels(T* at, const ChannelPack<T, V>& pack, bool whole, int count) {
  if (whole) {
    *reinterpret_cast<ChannelPack<T, V>*>(at) = pack;
  } else {
    for (int j = 0; j < V && j < count; ++j) {
      at[j] = pack.item[j];
    }
  }
}
