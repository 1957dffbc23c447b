"""The kernel host's own tests."""

import pytest

from tests.metal_host.harness import KernelHost, missing_requirement


@pytest.fixture
def host() -> KernelHost:
    reason = missing_requirement()
    if reason:
        pytest.skip(reason)
    return KernelHost()
