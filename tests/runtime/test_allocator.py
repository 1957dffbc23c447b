import platform
import subprocess
import sys

import pytest

CODE = """
import resource, numpy as np
{first}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    np.ones(4 << 20, np.float64)  # 32 MiB
before = faults()
for _ in range(10):
    np.ones(4 << 20, np.float64)
print(faults() - before)
"""


def page_faults(first):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(first=first)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc gives large blocks back"
)
def test_large_blocks_are_kept_for_the_next_array():
    """Ten 32 MiB arrays, one after the other, touch the same pages."""
    kept = page_faults("from energyflow_mlx.runtime import allocator")
    assert kept < page_faults("") / 4
