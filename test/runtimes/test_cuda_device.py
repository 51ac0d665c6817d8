"""GPUs are counted by asking the driver, or what is found in its place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kyn_models.runtimes import cuda_device

DRIVERS = {
    "two": ("int cuInit(unsigned) { return 0; } int cuDeviceGetCount(int* n) { *n = 2; return 0; }", 2),
    "broken": ("int cuInit(unsigned) { return 999; } int cuDeviceGetCount(int* n) { *n = 2; return 0; }", 0),
    "odd": ("int cuInit(unsigned) { return 0; } int cuDeviceGetCount(int* n) { *n = 2; return 3; }", 0),
    "foreign": ("int other() { return 0; }", 0),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_gpus_are_counted_by_the_driver(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, expected = DRIVERS[name]
    library = tmp_path / f"lib{name}.so"
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(library)]
    subprocess.run(command, input=f'extern "C" {{ {source} }}', text=True, check=True)
    monkeypatch.setattr(cuda_device, "DRIVER", str(library))
    assert cuda_device.gpu_count() == expected


def test_no_driver_means_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda_device, "DRIVER", str(tmp_path / "libcuda.so.1"))
    assert cuda_device.gpu_count() == 0
