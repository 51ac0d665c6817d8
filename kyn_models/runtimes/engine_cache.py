"""Built engines on disk. An engine is code: only what this user built on this machine is ever loaded.

    <cache>/engines/seal                 random key of this user, 0600
    <cache>/engines/<digest>/engine.plan the engine
    <cache>/engines/<digest>/meta.json   what it was built for, and the HMAC-SHA256 of the engine under that key
    <cache>/engines/<digest>/timing.cache

Folders are 0700. Files appear whole or not at all. A lock per engine makes others wait for the one that builds; a lock
of a process that died is gone with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kyn_models.cache import cache_folder

PLAN, META, TIMING, LOCK, SEAL = "engine.plan", "meta.json", "timing.cache", "lock", "seal"

Say = Callable[[str], None]
Build = Callable[[Path, Path], None]
"""Writes an engine to the first path; the second is a timing cache to read and write."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides whether an engine fits. graph: hash of the ONNX file and its weights.

    shapes: every input with its shape. flags: of the build.
    """

    product: str
    version: str
    graph: str
    gpu: str
    compute_capability: str
    driver_cuda_major: int
    precision: str
    shapes: str
    flags: str

    def digest(self) -> str:
        """Name of the engine's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


class Entry(NamedTuple):
    """A cached engine: its folder, what it was built for, its size, and when it was built (seconds since 1970)."""

    folder: Path
    built_for: dict[str, Any]
    size_bytes: int
    built_s: float


class Untrusted(Exception):
    """A file that must not be loaded; the message says why."""


class EngineCache:
    """warn: gets a sentence when an engine that is there cannot be used. say: progress."""

    def __init__(self, warn: Say, say: Say, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_folder("engines")
        self._warn, self._say = warn, say

    def get(self, key: EngineKey, build: Build) -> bytes:
        """The engine for ``key``, from disk or built. Raises what ``build`` raises.

        A cache that cannot be used is said, and the engine is built for this process alone.
        """
        try:
            with self._held(key) as folder:
                plan = self._stored(folder, key)
                return plan if plan is not None else self._build(folder, key, build)
        except OSError as error:
            reason = f"{error.filename or self.root}: {error.strerror or error}"
            self._warn(f"the engine cache cannot be used ({reason}); the engine is built for this process alone")
        with tempfile.TemporaryDirectory(prefix="kyn_engine_") as scratch:
            build(Path(scratch) / PLAN, Path(scratch) / TIMING)
            return (Path(scratch) / PLAN).read_bytes()

    def forget(self, key: EngineKey) -> None:
        """Remove the engine for ``key``, if it is there."""
        shutil.rmtree(self.root / key.digest(), ignore_errors=True)

    def remove(self, entry: Entry) -> None:
        """Remove one engine. Raises ``OSError``."""
        shutil.rmtree(entry.folder)

    def entries(self) -> list[Entry]:
        """All engines, the oldest first; folders whose description is damaged have an empty one."""
        found = []
        for plan in self.root.glob(f"*/{PLAN}"):
            try:
                built_for = json.loads((plan.parent / META).read_text())["key"]
            except (OSError, ValueError, KeyError, TypeError):
                built_for = {}
            status = plan.stat()
            found.append(Entry(plan.parent, built_for, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry.built_s)

    @contextmanager
    def _held(self, key: EngineKey) -> Iterator[Path]:
        """The folder of an engine, made private, while nobody else works in it."""
        folder = self.root / key.digest()
        for place in (self.root, folder):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.lstat(place)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise PermissionError(1, "it belongs to somebody else, expected a folder of this user", str(place))
            if stat.S_IMODE(status.st_mode) & 0o077:
                os.chmod(place, 0o700)
        with (folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("another process is building this engine; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder

    def _stored(self, folder: Path, key: EngineKey) -> bytes | None:
        if not (folder / PLAN).exists() and not (folder / PLAN).is_symlink():
            return None
        try:
            plan, meta = _read_own(folder / PLAN), json.loads(_read_own(folder / META))
            if not isinstance(meta, dict) or meta.get("key") != asdict(key):
                raise Untrusted("its description is of another engine")
            if not hmac.compare_digest(str(meta.get("hmac_sha256")), self._hmac(plan, key)):
                raise Untrusted("its content is not what was built here")
            return plan
        except (Untrusted, ValueError) as error:
            reason = str(error) if isinstance(error, Untrusted) else "its description is damaged"
            self._warn(f"{folder / PLAN}: {reason}; the engine is built again")
        except FileNotFoundError:
            self._warn(f"{folder / PLAN}: its description is missing; the engine is built again")
        return None

    def _build(self, folder: Path, key: EngineKey, build: Build) -> bytes:
        scratch = folder / f"{PLAN}.part"
        try:
            build(scratch, folder / TIMING)
            plan = scratch.read_bytes()
            meta = {"key": asdict(key), "hmac_sha256": self._hmac(plan, key), "built_s": time.time()}
            _write_own(folder / META, json.dumps(meta, indent=2).encode())
            scratch.chmod(0o600)
            os.replace(scratch, folder / PLAN)
        finally:
            scratch.unlink(missing_ok=True)
        return plan

    def _hmac(self, plan: bytes, key: EngineKey) -> str:
        return hmac.new(self._seal(), key.digest().encode() + plan, hashlib.sha256).hexdigest()

    def _seal(self) -> bytes:
        """The key of this user's engines; a new one (all engines are then built again) if it is not private."""
        path = self.root / SEAL
        try:
            seal = _read_own(path)
            if len(seal) == 32 and not stat.S_IMODE(path.stat().st_mode) & 0o077:
                return seal
        except (FileNotFoundError, Untrusted):
            pass
        _write_own(path, secrets.token_bytes(32))
        return path.read_bytes()


def _read_own(path: Path) -> bytes:
    """Content of a regular file of this user that nobody else may write. Raises ``Untrusted``, ``OSError``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if path.is_symlink():
            raise Untrusted("it is a link") from error
        raise
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise Untrusted("it belongs to somebody else")
        if stat.S_IMODE(status.st_mode) & 0o022:
            raise Untrusted("others may write it")
        return stream.read()


def _write_own(path: Path, content: bytes) -> None:
    """Write a private file whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
