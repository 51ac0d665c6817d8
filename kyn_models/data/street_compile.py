"""Machine code of the street renderer, kept on disk between runs and made anew whenever any of its sources changed.

numba's own cache watches only the file that a function is defined in, not the files of the functions it calls, and
would go on using their old code after an upgrade. So only the entry points are cached, under a key of all sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_FILES = ("rays", "queries", "noise", "solids", "facades", "textures", "ground", "lens", "render")


def _digest(folder: Path) -> str:
    """SHA-256 of all files that hold compiled functions or constants of theirs."""
    return hashlib.sha256(b"\0".join((folder / f"street_{name}.py").read_bytes() for name in _FILES)).hexdigest()


SOURCES = _digest(Path(__file__).parent)


class _Cache(FunctionCache):
    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), SOURCES)


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls with arrays: machine code cached, the GIL freed while it runs."""
    compiled = njit(error_model="numpy", nogil=True)(function)
    compiled._cache = _Cache(function)
    return compiled
