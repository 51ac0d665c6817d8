"""Arrays of an npz file, with one clear error for every way in which such a file can be damaged. numpy only."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np


def read_npz(path: Path, names: Iterable[str], advice: str) -> dict[str, np.ndarray]:
    """The arrays called ``names`` of the file ``path``. advice: ends the error's sentence, says what to do.

    Raises ``FileNotFoundError``, or ``ValueError`` for a file that is damaged, of another kind, or lacks an array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, expected an npz file; {advice}")
    names = tuple(names)
    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("one bare array")
        with stored:
            return {name: stored[name] for name in names}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        # numpy's own words are left out: for a file of another kind they recommend to unpickle it.
        raise ValueError(
            f"{path}: got a file that is damaged or of another kind, "
            f"expected an npz file with {', '.join(names)}; {advice}"
        ) from error


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a compressed npz file with these arrays."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    return stream.getvalue()
