"""Which TensorRT is installed here: ``tensorrt`` 10.3 to 11, else ``tensorrt_rtx``, whose Python API is the same."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

VERSIONS = {"tensorrt": ("TensorRT", (10, 3), (12, 0)), "tensorrt_rtx": ("TensorRT-RTX", (1, 4), (2, 0))}
"""Module to the product's name, the first version known to have what is used here, and the first that is not."""


class Library(NamedTuple):
    """product: name of the module. module: the module itself. version: as it says."""

    product: str
    module: Any
    version: str

    @property
    def title(self) -> str:
        """Product and version for people."""
        return f"{VERSIONS[self.product][0]} {self.version}"


def find_library(products: tuple[str, ...] = tuple(VERSIONS)) -> Library:
    """The first of ``products`` that can be imported.

    Raises ``ImportError`` if there is none, ``RuntimeError`` for a version that is too old or too new.
    """
    failures = []
    for product in products:
        try:
            module = importlib.import_module(product)
        except ImportError as error:
            failures.append(str(error).strip().splitlines()[0] if str(error).strip() else f"no {product}")
            continue
        return _checked(product, module)
    raise ImportError("; ".join(failures))


def _checked(product: str, module: Any) -> Library:
    _, lowest, beyond = VERSIONS[product]
    version = str(getattr(module, "__version__", "unknown"))
    numbers = version.split(".")[:2]
    if not all(part.isdigit() for part in numbers) or not lowest <= tuple(map(int, numbers)) < beyond:
        raise RuntimeError(
            f"{product}: got version {version}, expected {lowest[0]}.{lowest[1]} or later and before {beyond[0]}.0"
        )
    return Library(product, module, version)


class LastError:
    """What TensorRT said last about a fault: its calls themselves only return None or False."""

    def __init__(self) -> None:
        self.text = ""

    def __str__(self) -> str:
        return self.text or "it gave no reason"


def make_logger(module: Any, last: LastError, echo: bool = False) -> Any:
    """A logger of that library that keeps the newest error in ``last``. echo: print errors and warnings too."""
    severity = module.ILogger.Severity
    faults = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            line = " ".join(str(message).split())
            if level in faults:
                last.text = line
            if echo and (level in faults or level == severity.WARNING):
                print(line, flush=True)

    return Logger()
