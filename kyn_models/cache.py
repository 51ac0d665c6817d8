"""Where kyn keeps what it made on this machine and can make again."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

MODELS = "models"
MAKING = ".making-"
"""How the name of a model's folder begins while it is made."""
ABANDONED_S = 86400.0
"""Making a model takes minutes: a folder that was begun a day ago has nobody who goes on."""


def cache_root() -> Path:
    """$KYN_CACHE_DIR, else ``kyn`` in $XDG_CACHE_HOME, else in ~/.cache. It may not exist."""
    own = os.environ.get("KYN_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kyn"


@dataclass(frozen=True)
class CachedModel:
    """A model that ``kyn bench`` made of seeded weights, or what an interrupted one left of it.

    nbytes: of its files. made_s: seconds since 1970.
    """

    folder: Path
    nbytes: int
    made_s: float


def cached_models() -> list[CachedModel]:
    """All of them, newest first; not those that are being made."""
    found = []
    models = cache_root() / MODELS
    for folder in models.iterdir() if models.is_dir() else ():
        if not folder.is_dir() or folder.is_symlink():
            continue
        made_s = folder.stat().st_mtime
        if folder.name.startswith(MAKING) and time.time() - made_s < ABANDONED_S:
            continue
        files = [file for file in folder.rglob("*") if file.is_file()]
        found.append(CachedModel(folder, sum(file.stat().st_size for file in files), made_s))
    return sorted(found, key=lambda model: -model.made_s)


def remove_model(model: CachedModel) -> None:
    """Remove one; whoever looks for it finds it whole or not at all. Raises ``OSError``."""
    if not model.folder.name.startswith(MAKING):
        hidden = model.folder.with_name(f"{MAKING}{os.getpid()}-{model.folder.name}")
        model = replace(model, folder=model.folder.rename(hidden))
    shutil.rmtree(model.folder)
