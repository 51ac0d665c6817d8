"""Whether this machine has an NVIDIA GPU, asked of its driver alone: no library of hundreds of megabytes is loaded."""

from __future__ import annotations

import ctypes

DRIVER = "libcuda.so.1"


def gpu_count() -> int:
    """How many GPUs the NVIDIA driver offers to this process: 0 without a driver or with one that does not work."""
    try:
        driver = ctypes.CDLL(DRIVER)
        count = ctypes.c_int(0)
        # Both calls return 0 where they succeed; ``CUDA_VISIBLE_DEVICES`` is respected.
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value
