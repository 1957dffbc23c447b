// The part of the Metal standard library that kernels use, for a host C++ compiler.
// Written from the public language specification; it shares our reading of it.
#pragma once
#include "metal_host/types.h"

#include "metal_host/vectors.h"

#include "metal_host/math.h"
#include "metal_host/threads.h"

#include "metal_host/simd.h"
// Last: these change what follows, kernel text included.
#include "metal_host/keywords.h"
