"""The folder of ``kyn demo``: one demo at a time writes there, and only what a demo wrote is ever replaced."""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "KYN_DEMO.txt"
"""File that says what the folder is, and that a running demo holds locked; a lock ends with its process."""
RESULTS = ("recording", "frames", "demo.mp4", "demo.rrd", "summary.json")
DRIVE = "synthetic_drive"


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Have the folder ``out`` (made if need be) for this demo alone.

    Raises ``FileExistsError`` for a folder with files of which none says that a demo wrote them, ``ValueError`` while
    another demo writes there. Within, an ``OSError`` that names no file gets the name of ``out``: what writes into a
    file that is open already, as the recording, does not say which.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: is a file, expected a folder for the results; name another one as --out")
    if out.is_dir() and not (out / MARK).is_file() and any(out.iterdir()):
        raise FileExistsError(
            f"{out}: holds files that kyn demo did not write (it has no {MARK}), expected a new or empty folder or one "
            "of an earlier demo; name another one as --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    with (out / MARK).open("a") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another demo writes there; wait for its end or name another --out") from None
        mark.truncate(0)
        mark.write("Results of `kyn demo`; the next demo in this folder replaces them.\n")
        mark.flush()
        try:
            yield
        except OSError as error:
            if error.strerror and error.filename is None:
                advice = "; make room there, or name another folder as --out" if error.errno == errno.ENOSPC else ""
                raise OSError(error.errno, f"{error.strerror}{advice}", str(out)) from error
            raise


def clear(out: Path, keep_drive: bool) -> list[str]:
    """Remove the results of an earlier demo, and its synthetic drive unless it is kept; returns what was removed."""
    names = RESULTS if keep_drive else (*RESULTS, DRIVE)
    present = [name for name in names if (out / name).exists()]
    for name in present:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink()
    return present
