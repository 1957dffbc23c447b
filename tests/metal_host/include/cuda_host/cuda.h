// The part of CUDA C++ that MLX's kernels use, on the executor that also runs Metal
// text. Stricter than CUDA in one way: half types convert explicitly only.
#pragma once
#include "metal_host/metal.h"
// CUDA has its own words, and double.
#undef device
#undef constant
#undef thread
#undef threadgroup
#undef double
#undef as_type

#include <cassert>
#include <cstdio>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define WARP_SIZE 32

#include "cuda_host/types.h"

#include "cuda_host/functions.h"

using cuda_host::max;
using cuda_host::min;
