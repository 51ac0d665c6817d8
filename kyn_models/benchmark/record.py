"""What a benchmark writes down beside its numbers: the machine, the libraries, the date. numpy only."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kyn_models import __version__

LIBRARIES = (
    *("numpy", "opencv-python-headless", "numba", "openvino", "onnxruntime", "torch", "tensorrt", "tensorrt-rtx"),
    "ros-rclpy",
)
UNITS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16", "amx_int8")
"""CPU flags that decide which precision is fast, where the CPU has them."""


def check_output(option: str, path: Path | None) -> None:
    """Raise ``ValueError`` or ``OSError`` if a file cannot be written there: before the work, not after it."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{option}: got the folder {path}, expected the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option}: {path.parent} is no folder, expected one that exists; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{option}: {path} cannot be written; choose another place")


def hardware(cores: int) -> dict[str, Any]:
    """The machine. cores: how many of its cores were used."""
    text = _read("/proc/cpuinfo")
    flags = set(_field(text, "flags").split())
    return {
        "cpu": _field(text, "model name") or platform.processor() or platform.machine(),
        "cores_used": cores,
        "cores": os.cpu_count(),
        "units": [name for name in UNITS if name in flags],
        "ram_gb": round(int(_field(_read("/proc/meminfo"), "MemTotal").partition(" ")[0] or 0) / 1e6, 1),
        "gpu": _gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def in_words(machine: Mapping[str, Any]) -> str:
    """``hardware`` in one line."""
    return (
        f"{machine['cores_used']} of {machine['cores']} cores, {machine['cpu']} ({', '.join(machine['units'])}), "
        f"{machine['ram_gb']} GB" + (f", {machine['gpu']}" if machine["gpu"] else ", no GPU")
    )


def write_json(path: Path, content: Mapping[str, Any], cores: int) -> None:
    """``content`` with version, date and machine as JSON."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = {"kyn": __version__, "date": now, "hardware": hardware(cores), **content}
    path.write_text(json.dumps(record, indent=2) + "\n")


def memory_mb(pid: int | str = "self") -> tuple[float, float]:
    """(resident now, peak resident since the start) of a process in 10^6 bytes; NaN where /proc does not say."""
    text = _read(f"/proc/{pid}/status")
    values = [_field(text, name).partition(" ")[0] for name in ("VmRSS", "VmHWM")]
    now, peak = (float(value) * 1024 / 1e6 if value else float("nan") for value in values)
    return now, peak


def _gpu() -> str:
    driver = Path("/proc/driver/nvidia/gpus")
    models = [_field(_read(str(folder / "information")), "Model") for folder in driver.glob("*")]
    return ", ".join(sorted(filter(None, models)))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    """The value of the first line ``name: value``."""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""
