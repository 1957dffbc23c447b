// Address spaces vanish on the host (lint.py checks them by text), and names that
// Metal does not have become errors that say so.
#pragma once
#define device
#define constant
#define thread
#define threadgroup
#define METAL_FUNC inline
#define __METAL__ 1
#define as_type metal::as_type_of
#define double metal_has_no_double
