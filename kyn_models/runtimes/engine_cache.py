"""Built engines on disk: private, checked before use, built once however many processes start.

    <cache>/engines/key                  random, readable by its owner alone
    <cache>/engines/<engine>/engine.plan, timing.cache, meta.json
    <cache>/engines/<engine>.lock

<cache> is ``$KYN_CACHE_DIR``, else ``$XDG_CACHE_HOME/kyn``, else ``~/.cache/kyn``. An engine is code, and TensorRT
cannot tell whose: only what this user's key has signed is loaded, and everything else is built again. No parameter
names one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kyn_models.cache import cache_root
from kyn_models.runtimes.engine_process import Built

T = TypeVar("T")
Say = Callable[[str], None]
PLAN, TIMING, META, KEY = "engine.plan", "timing.cache", "meta.json", "key"
KEY_BYTES = 32
POLL_S = 0.2
SAY_EVERY_S = 10.0


class _Refused(Exception):
    """A file that must not be used, and why."""


@dataclass(frozen=True)
class Entry:
    """A cached engine. facts: what it was built from and for. nbytes: of its files. built_s: seconds since 1970."""

    folder: Path
    facts: dict[str, Any]
    nbytes: int
    built_s: float


def engine_from_cache(
    facts: Mapping[str, Any], load: Callable[[bytes], T | None], build: Callable[[bytes], Built], say: Say
) -> T:
    """The engine with these facts: from the cache if it is there and sound, else built and kept.

    load: from serialised to usable, None if the library refuses. build: from an earlier timing cache (may be empty).
    Raises what ``load`` and ``build`` raise, ``RuntimeError`` if a new engine does not load. A cache that cannot be
    used is said and otherwise does no harm.
    """
    with _shelf(facts, say) as shelf:
        if shelf is not None:
            plan = shelf.plan()
            engine = load(plan) if plan is not None else None
            if engine is not None:
                return engine
            if plan is not None:
                say(f"{shelf.folder / PLAN}: the library refuses it; it is built again")
        built = build(shelf.timing() if shelf is not None else b"")
        engine = load(built.plan)
        if engine is None:
            raise RuntimeError("the engine that was just built does not load")
        if shelf is not None:
            shelf.keep(built)
        return engine


class _Shelf:
    """The place of one engine, while its lock is held."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], secret: bytes, say: Say) -> None:
        self.folder, self._facts, self._secret, self._say = folder, dict(facts), secret, say

    def plan(self) -> bytes | None:
        """The engine, None if there is none that may be used."""
        try:
            return self._signed(PLAN)
        except FileNotFoundError:
            return None
        except (_Refused, OSError) as error:
            reason = str(error) if isinstance(error, _Refused) else _reason(error)
            self._say(f"{self.folder / PLAN}: {reason}; it is built again")
            return None

    def timing(self) -> bytes:
        """Measurements of an earlier build, empty if there are none that may be used."""
        try:
            return self._signed(TIMING)
        except (_Refused, OSError):
            return b""

    def keep(self, built: Built) -> None:
        """Write the engine, each file at once, the signatures last."""
        content = {PLAN: built.plan, TIMING: built.timing}
        meta = {
            "facts": self._facts,
            "built_s": time.time(),
            "signatures": {name: self._signature(name, data) for name, data in content.items()},
        }
        try:
            private_folder(self.folder)
            for name, data in (*content.items(), (META, json.dumps(meta, indent=1, sort_keys=True).encode())):
                _replace(self.folder / name, data)
        except OSError as error:
            self._say(f"{self.folder}: {_reason(error)}; the engine is not kept, and the next start builds it again")

    def _signed(self, name: str) -> bytes:
        data = _read_private(self.folder / name)
        try:
            signatures = json.loads(_read_private(self.folder / META))["signatures"]
            right = hmac.compare_digest(str(signatures[name]), self._signature(name, data))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            right = False
        if not right:
            raise _Refused("it is damaged or was not built here")
        return data

    def _signature(self, name: str, data: bytes) -> str:
        about = f"{engine_key(self._facts)}\n{name}\n".encode()
        return hmac.new(self._secret, about + data, hashlib.sha256).hexdigest()


def engine_key(facts: Mapping[str, Any]) -> str:
    """Name of an engine: SHA-256 of all its facts."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:40]


@contextmanager
def _shelf(facts: Mapping[str, Any], say: Say) -> Iterator[_Shelf | None]:
    """The locked place of an engine, None if the cache cannot be used."""
    key = engine_key(facts)
    try:
        folder = private_folder(cache_root() / "engines")
        lock = _lock(folder / f"{key}.lock", say)
    except OSError as error:
        say(f"engine cache {cache_root()}: {_reason(error)}; the engine is built for this start only")
        yield None
        return
    try:
        try:
            shelf: _Shelf | None = _Shelf(folder / key, facts, _secret(folder / KEY, say), say)
        except OSError as error:
            say(f"engine cache {folder}: {_reason(error)}; the engine is built for this start only")
            shelf = None
        yield shelf
    finally:
        os.close(lock)


def _lock(path: Path, say: Say) -> int:
    """Hold the lock at ``path``: a file descriptor to close. Locks of processes that died are free."""
    due = time.monotonic()
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `kyn engine clean` may have removed the file between the two calls.
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == os.stat(path, follow_symlinks=False).st_ino:
                    return descriptor
        except BlockingIOError:
            if time.monotonic() >= due:
                say("another process is building the same engine; waiting for it")
                due = time.monotonic() + SAY_EVERY_S
            time.sleep(POLL_S)
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def private_folder(path: Path) -> Path:
    """Make ``path`` a folder that only this user can enter. Raises ``OSError`` if it belongs to somebody else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(errno.EACCES, "it belongs to another user or is a link", str(path))
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)
    return path


def _read_private(path: Path, forbidden: int = 0o022) -> bytes:
    """Content of a file that nobody else could have written. Raises ``OSError`` or ``_Refused``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _Refused("it belongs to another user or is no file")
        if found.st_mode & forbidden:
            raise _Refused(f"others may change it (mode {stat.S_IMODE(found.st_mode):o})")
        return stream.read()


def _secret(path: Path, say: Say) -> bytes:
    """The key that signs engines; a new one if there is none or others could have read it."""
    try:
        secret = _read_private(path, forbidden=0o077)
        if len(secret) == KEY_BYTES:
            return secret
        say(f"{path}: got {len(secret)} bytes, expected {KEY_BYTES}; a new key is made and engines are built again")
    except FileNotFoundError:
        pass
    except _Refused as error:
        say(f"{path}: {error}; a new key is made and engines are built again")
    with _made(path.with_name("key.lock"), say):
        # Another process may have made it meanwhile.
        with suppress(OSError, _Refused):
            secret = _read_private(path, forbidden=0o077)
            if len(secret) == KEY_BYTES:
                return secret
        secret = secrets.token_bytes(KEY_BYTES)
        _replace(path, secret)
        return secret


@contextmanager
def _made(path: Path, say: Say) -> Iterator[None]:
    descriptor = _lock(path, say)
    try:
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Write a file at once or not at all, for this user alone."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, path)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def entries() -> list[Entry]:
    """All cached engines, newest first. Those without readable facts have none."""
    found = []
    engines = cache_root() / "engines"
    for folder in sorted(engines.iterdir()) if engines.is_dir() else []:
        if not folder.is_dir() or folder.is_symlink():
            continue
        files = [file for file in folder.iterdir() if file.is_file()]
        meta: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            meta = json.loads((folder / META).read_bytes())
        facts, built_s = meta.get("facts", {}), meta.get("built_s", folder.stat().st_mtime)
        found.append(Entry(folder, facts, sum(file.stat().st_size for file in files), float(built_s)))
    return sorted(found, key=lambda entry: -entry.built_s)


def remove(entry: Entry, say: Say) -> None:
    """Remove one engine; waits for a process that is building it. Raises ``OSError``."""
    path = entry.folder.with_name(f"{entry.folder.name}.lock")
    descriptor = _lock(path, say)
    try:
        shutil.rmtree(entry.folder)
        path.unlink()
    finally:
        os.close(descriptor)
