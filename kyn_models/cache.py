"""Where kyn keeps what it made on this machine and can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """$KYN_CACHE_DIR, else ``kyn`` in $XDG_CACHE_HOME, else in ~/.cache. It may not exist."""
    own = os.environ.get("KYN_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kyn"
