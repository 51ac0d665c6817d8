"""Engines on disk: private, sealed, whole, built once, and never a reason to fail."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kyn_models.runtimes import engine_cache
from kyn_models.runtimes.engine_cache import META, PLAN, SEAL, EngineCache, EngineKey

ROOT = Path(__file__).resolve().parents[2]
KEY = EngineKey("tensorrt", "10.3.0.30", "ab" * 32, "Orin", "8.7", 12, "float16", "ray_grid:1x1x8x2", "strongly typed")
CONTENT = b"an engine" * 100


class Builder:
    def __init__(self, content: bytes = CONTENT) -> None:
        self.content, self.count = content, 0

    def __call__(self, plan: Path, timing: Path) -> None:
        self.count += 1
        plan.write_bytes(self.content)
        timing.write_bytes(b"timings")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> EngineCache:
    return EngineCache(said.append, lambda _: None, tmp_path / "engines")


def plan_of(cache: EngineCache) -> Path:
    return cache.root / KEY.digest() / PLAN


def test_an_engine_is_built_once_and_only_its_user_can_read_or_write_it(cache: EngineCache, said: list[str]) -> None:
    build = Builder()
    assert cache.get(KEY, build) == cache.get(KEY, build) == CONTENT
    assert build.count == 1 and not said
    for folder in (cache.root, plan_of(cache).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (plan_of(cache), plan_of(cache).with_name(META), cache.root / SEAL):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600
    assert not list(plan_of(cache).parent.glob("*.part*"))


@pytest.mark.parametrize(
    "change", ["product", "version", "graph", "gpu", "compute_capability", "driver_cuda_major", "precision", "shapes"]
)
def test_every_field_of_the_key_decides(cache: EngineCache, change: str) -> None:
    build = Builder()
    cache.get(KEY, build)
    cache.get(replace(KEY, **{change: 13 if change == "driver_cuda_major" else "another"}), build)
    assert build.count == 2


def truncate(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:10])


def exchange(plan: Path) -> None:
    plan.write_bytes(b"code of somebody else")


def reseal(plan: Path) -> None:
    """An attacker who writes both files but does not know the seal."""
    plan.write_bytes(b"code of somebody else")
    meta = json.loads(plan.with_name(META).read_text())
    plan.with_name(META).write_text(json.dumps({**meta, "hmac_sha256": "0" * 64}))


def open_to_all(plan: Path) -> None:
    plan.chmod(0o666)


def link(plan: Path) -> None:
    other = plan.with_name("other.plan")
    plan.rename(other)
    plan.symlink_to(other)


def no_meta(plan: Path) -> None:
    plan.with_name(META).unlink()


def broken_meta(plan: Path) -> None:
    plan.with_name(META).write_text("{")


def foreign_meta(plan: Path) -> None:
    meta = json.loads(plan.with_name(META).read_text())
    meta["key"]["gpu"] = "another"
    plan.with_name(META).write_text(json.dumps(meta))


def new_seal(plan: Path) -> None:
    (plan.parent.parent / SEAL).unlink()


def open_seal(plan: Path) -> None:
    (plan.parent.parent / SEAL).chmod(0o644)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "its content is not what was built here"),
        (exchange, "its content is not what was built here"),
        (reseal, "its content is not what was built here"),
        (open_to_all, "others may write it"),
        (link, "it is a link"),
        (no_meta, "its description is missing"),
        (broken_meta, "its description is damaged"),
        (foreign_meta, "its description is of another engine"),
        (new_seal, "its content is not what was built here"),
        (open_seal, "its content is not what was built here"),
    ],
)
def test_what_cannot_be_trusted_is_built_again_and_said(
    cache: EngineCache, said: list[str], damage: Callable[[Path], None], sentence: str
) -> None:
    build = Builder()
    cache.get(KEY, build)
    damage(plan_of(cache))
    assert cache.get(KEY, build) == CONTENT and build.count == 2
    assert said == [f"{plan_of(cache)}: {sentence}; the engine is built again"]
    assert cache.get(KEY, build) == CONTENT and build.count == 2, "mended"


def test_an_engine_of_another_user_is_not_loaded(
    cache: EngineCache, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, user = Builder(), os.geteuid()
    cache.get(KEY, build)
    if user == 0:
        os.chown(plan_of(cache), 12345, 12345)
        cache.get(KEY, build)
        assert "it belongs to somebody else; the engine is built again" in said.pop()
    # The whole cache belongs to somebody else: nothing in it is touched.
    before = plan_of(cache).stat().st_mtime_ns
    monkeypatch.setattr(engine_cache.os, "geteuid", lambda: user + 1)
    assert cache.get(KEY, Builder(b"own")) == b"own"
    assert "belongs to somebody else" in said[0] and "for this process alone" in said[0]
    assert plan_of(cache).stat().st_mtime_ns == before


def test_an_open_cache_folder_is_made_private(cache: EngineCache) -> None:
    cache.root.mkdir(parents=True)
    cache.root.chmod(0o777)
    cache.get(KEY, Builder())
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    build = Builder()
    assert EngineCache(said.append, lambda _: None, tmp_path / "file" / "engines").get(KEY, build) == CONTENT
    assert len(said) == 1 and said[0].startswith("the engine cache cannot be used (") and build.count == 1


def test_a_full_disk_costs_only_time(cache: EngineCache, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(engine_cache, "_write_own", full)
    assert cache.get(KEY, Builder()) == CONTENT
    assert "No space left on device" in said[0] and "for this process alone" in said[0]
    assert not plan_of(cache).exists(), "no half of an engine stays"


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(cache: EngineCache) -> None:
    def fail(plan: Path, timing: Path) -> None:
        plan.write_bytes(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.get(KEY, fail)
    assert sorted(path.name for path in plan_of(cache).parent.iterdir()) == ["lock"]
    assert cache.get(KEY, Builder()) == CONTENT


def test_entries_and_forgetting(cache: EngineCache) -> None:
    assert cache.entries() == []
    cache.get(KEY, Builder())
    cache.get(replace(KEY, gpu="H200"), Builder(b"long" * 1000))
    plan_of(cache).with_name(META).write_text("{")
    entries = cache.entries()
    assert [entry.built_for.get("gpu") for entry in entries] == [None, "H200"]
    assert [entry.size_bytes for entry in entries] == [len(CONTENT), 4000]
    cache.forget(KEY)
    assert len(cache.entries()) == 1


PROGRAM = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from kyn_models.runtimes.engine_cache import EngineCache, EngineKey
root = Path(sys.argv[2])
def build(plan, timing):
    with (root / "builds").open("a") as log:
        log.write("built\\n")
    print("building", flush=True)
    time.sleep(float(sys.argv[3]))
    plan.write_bytes(b"engine")
key = EngineKey("tensorrt", "1", "2", "3", "4", 5, "6", "7", "8")
said = lambda sentence: print(sentence, flush=True)
print(EngineCache(said, said, root / "engines").get(key, build), flush=True)
"""


def start(root: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(ROOT), str(root), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_at_once_one_builds_and_both_have_it(tmp_path: Path) -> None:
    processes = [start(tmp_path, 1.0) for _ in range(2)]
    texts = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all("b'engine'" in text for text in texts)
    assert (tmp_path / "builds").read_text() == "built\n"
    assert sum("another process is building this engine; waiting for it" in text for text in texts) == 1


def test_the_lock_of_a_killed_process_is_gone_with_it(tmp_path: Path) -> None:
    first = start(tmp_path, 60.0)
    assert first.stdout is not None and first.stdout.readline() == "building\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    begin = time.monotonic()
    second = start(tmp_path, 0.0)
    assert "b'engine'" in second.communicate(timeout=60)[0] and time.monotonic() - begin < 30
    assert (tmp_path / "builds").read_text() == "built\nbuilt\n"
