// Where in the kernel text a library function was called.
#pragma once
#include "../../runtime/host_abi.h"

// Library code that touches executor memory must not be checked itself.
#define HOST_UNCHECKED __attribute__((no_sanitize("thread"), no_sanitize_coverage))

// As last parameter of a library function: its defaults are taken at the call.
#define HOST_SITE \
  const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()
#define HOST_AT file, line
