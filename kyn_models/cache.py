"""Where kyn keeps what it made on this machine and can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Folder ``name`` below $KYN_CACHE_DIR, else below kyn in $XDG_CACHE_HOME, else in ~/.cache. It may not exist."""
    own = os.environ.get("KYN_CACHE_DIR")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(own) if own else Path(shared) / "kyn") / name
