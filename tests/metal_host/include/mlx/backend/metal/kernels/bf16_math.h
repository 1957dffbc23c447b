#pragma once  // the host has no bfloat intrinsics to wrap; see metal_host/types.h
