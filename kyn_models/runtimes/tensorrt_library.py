"""Which TensorRT is installed here: the full one, or TensorRT-RTX, whose Python interface is the same."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

PRODUCTS = {"tensorrt": ("TensorRT", (10, 3), (12, 0)), "tensorrt_rtx": ("TensorRT-RTX", (1, 4), (2, 0))}
"""Python module to its name for people, the first version that works, and the first that is too new to know."""


class Library(NamedTuple):
    """module: the Python module. product: its name. title: name and version for people. version: all of its fields."""

    module: Any
    product: str
    title: str
    version: str


def find_library() -> Library:
    """The installed TensorRT, the full one first.

    Raises ``ImportError`` if none can be imported, ``RuntimeError`` if one can and its version is out of range.
    """
    missing, wrong = [], []
    for product in PRODUCTS:
        try:
            return open_library(product)
        except ImportError as error:
            missing.append(str(error))
        except RuntimeError as error:
            wrong.append(str(error))
    if wrong:
        raise RuntimeError("; ".join(wrong))
    raise ImportError("; ".join(missing), name=next(iter(PRODUCTS)))


def open_library(product: str) -> Library:
    """Import ``product`` ("tensorrt" or "tensorrt_rtx"). Raises ``ImportError``, ``RuntimeError`` as above."""
    module = importlib.import_module(product)
    name, first, too_new = PRODUCTS[product]
    version = str(getattr(module, "__version__", "0"))
    numbers = tuple(int(field) if field.isdigit() else 0 for field in version.split(".")[:2])
    if not first <= numbers < too_new:
        lowest, highest = ".".join(map(str, first)), ".".join(map(str, too_new))
        raise RuntimeError(f"got {name} {version}, expected {lowest} or later and before {highest}")
    return Library(module, product, f"{name} {version}", version)
