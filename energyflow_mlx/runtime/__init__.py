"""The machine under the package: BLAS, allocator, device, diagnosis."""
