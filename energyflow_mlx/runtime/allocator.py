"""Keep freed memory in the process: large arrays on the CPU are dear to map anew.

MLX's CPU allocator is malloc. glibc maps every block of more than a few MiB from the
system and gives it back when it is freed, so each operation on a large array pays for
its page faults again: ``x + x`` on [8000, 1536] takes ten times longer. Raising two
thresholds keeps such blocks for the next operation. Other systems need nothing.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_BIG_BLOCK_BYTES = 1 << 30


def install() -> bool:
    """Tell glibc to keep blocks up to 1 GiB; returns whether that was accepted."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    kept = libc.mallopt(_M_MMAP_THRESHOLD, _BIG_BLOCK_BYTES)
    return bool(kept and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
