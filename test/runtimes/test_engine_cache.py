"""The engine cache: nothing foreign is ever loaded, one process builds, and a broken disk stops nobody."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kyn_models.cache import cache_root
from kyn_models.runtimes import engine_cache
from kyn_models.runtimes.engine_cache import KEY, META, PLAN, TIMING, engine_from_cache, engine_key, entries
from kyn_models.runtimes.engine_process import Built

ROOT = Path(__file__).parents[2]
FACTS = {"product": "tensorrt", "version": "10.3.0.30", "rays": 30720}


class Use:
    """One start of a node. said: what it told."""

    def __init__(self, refuse: bytes = b"nothing", plan: bytes = b"plan") -> None:
        self.said: list[str] = []
        self.timings: list[bytes] = []
        self._refuse, self._plan = refuse, plan

    def __call__(self, facts: dict = FACTS) -> bytes:
        return engine_from_cache(
            facts, lambda plan: None if plan == self._refuse else plan, self._build, self.said.append
        )

    def _build(self, timing: bytes) -> Built:
        self.timings.append(timing)
        return Built(self._plan, timing + b"t")

    @property
    def builds(self) -> int:
        return len(self.timings)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folder of the engine of ``FACTS``."""
    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "kyn"))
    return tmp_path / "kyn" / "engines" / engine_key(FACTS)


def test_built_once_private_and_found_again(folder: Path) -> None:
    first, second = Use(), Use()
    assert first() == b"plan" and second() == b"plan"
    assert (first.builds, second.builds, first.said, second.said) == (1, 0, [], [])
    for path in (folder, folder.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (folder / PLAN, folder / META, folder / TIMING, folder.parent / KEY):
        assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in folder.iterdir()) == sorted([PLAN, META, TIMING])
    other = Use()
    other(FACTS | {"version": "10.16.1.11"})
    assert other.builds == 1 and len(entries()) == 2


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KYN_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "kyn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "kyn"


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: damage(folder / PLAN), "it is damaged or was not built here"),
        (lambda folder: (folder / PLAN).write_bytes(b""), "it is damaged or was not built here"),
        (lambda folder: (folder / META).unlink(), "it is damaged or was not built here"),
        (lambda folder: (folder / META).write_bytes(b"{"), "it is damaged or was not built here"),
        (lambda folder: (folder / PLAN).chmod(0o666), "others may change it (mode 666)"),
        (lambda folder: (folder / META).chmod(0o620), "others may change it (mode 620)"),
        (lambda folder: make_link(folder / PLAN), "too many levels of symbolic links"),
    ],
    ids=["damaged", "empty", "unsigned", "meta", "world-writable", "group-writable", "link"],
)
def test_what_is_not_sound_is_built_again_and_said(folder: Path, harm, reason: str) -> None:
    Use()()
    harm(folder)
    again, then = Use(plan=b"new"), Use()
    assert again() == b"new" and then() == b"new"
    assert again.said == [f"{folder / PLAN}: {reason}; it is built again"]
    assert (again.builds, then.builds, then.said) == (1, 0, [])
    assert not (folder / PLAN).is_symlink()


def test_an_engine_of_another_machine_is_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whole and with signatures, but of another key."""
    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "other"))
    Use(plan=b"foreign")()
    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "kyn"))
    Use()()
    for name in (PLAN, META, TIMING):
        (folder / name).write_bytes((tmp_path / "other" / "engines" / folder.name / name).read_bytes())
    here = Use()
    assert here() == b"plan" and here.builds == 1
    assert "was not built here" in here.said[0]


def test_an_engine_cannot_take_the_place_of_another(folder: Path) -> None:
    Use()()
    Use(plan=b"other")(FACTS | {"rays": 1})
    other = folder.with_name(engine_key(FACTS | {"rays": 1}))
    for name in (PLAN, META, TIMING):
        (folder / name).write_bytes((other / name).read_bytes())
    here = Use()
    assert here() == b"plan" and here.builds == 1


def test_files_and_folders_of_another_user_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Use()()
    monkeypatch.setattr(engine_cache.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(engine_cache._Refused, match="belongs to another user"):
        engine_cache._read_private(folder / PLAN)
    here = Use()
    assert here() == b"plan" and here.builds == 1
    assert "belongs to another user" in here.said[0] and here.said[0].endswith("is built for this start only")


def test_a_key_that_others_could_read_is_replaced(folder: Path) -> None:
    Use()()
    old = (folder.parent / KEY).read_bytes()
    (folder.parent / KEY).chmod(0o644)
    here = Use()
    here()
    assert here.builds == 1 and "a new key is made" in here.said[0]
    assert (folder.parent / KEY).read_bytes() != old and (folder.parent / KEY).stat().st_mode & 0o777 == 0o600


def test_an_open_folder_is_closed(folder: Path) -> None:
    folder.parent.mkdir(parents=True, mode=0o777)
    folder.parent.chmod(0o777)
    Use()()
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_the_library_refuses_a_sound_engine(folder: Path) -> None:
    Use(plan=b"of the day before")()
    here = Use(refuse=b"of the day before")
    assert here() == b"plan"
    assert here.said == [f"{folder / PLAN}: the library refuses it; it is built again"]
    assert here.timings == [b"t"], "measurements of the first build help the second"
    with pytest.raises(RuntimeError, match="the engine that was just built does not load"):
        Use(refuse=b"plan")(FACTS | {"rays": 2})


def test_a_full_disk_costs_the_next_start_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(engine_cache.os, "fsync", full)
        here = Use()
        assert here() == b"plan"
    # The key is the first file, so nothing can be signed.
    assert "no space left on device; the engine is built for this start only" in here.said[0] and len(here.said) == 1
    Use(plan=b"x")(FACTS | {"rays": 1})
    with monkeypatch.context() as patch:
        patch.setattr(engine_cache.os, "fsync", full)
        here = Use()
        assert here() == b"plan"
    assert here.said == [
        f"{folder}: no space left on device; the engine is not kept, and the next start builds it again"
    ]
    assert not list(folder.parent.rglob("*.part"))
    then = Use()
    assert then() == b"plan" and then.builds == 1 and not then.said


def test_a_cache_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "file" / "kyn"))
    here = Use()
    assert here() == b"plan" and here.builds == 1
    assert here.said == [
        f"engine cache {tmp_path / 'file' / 'kyn'}: not a directory; the engine is built for this start only"
    ]


NODE = """
import sys, time
from pathlib import Path
from kyn_models.runtimes.engine_cache import engine_from_cache
from kyn_models.runtimes.engine_process import Built
log = Path(sys.argv[1])
def build(timing):
    with log.open("a") as stream:
        stream.write("build\\n")
    time.sleep(float(sys.argv[2]))
    return Built(b"plan", b"")
def say(text):
    print(text, flush=True)
print(engine_from_cache({"product": "tensorrt"}, lambda plan: plan, build, say).decode())
"""


def start(log: Path, slow_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", NODE, str(log), str(slow_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def wait_for(log: Path) -> None:
    deadline = time.monotonic() + 20
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_that_start_at_once_make_one_build(tmp_path: Path) -> None:
    log = tmp_path / "log"
    nodes = [start(log, 1.0) for _ in range(3)]
    outputs = [node.communicate(timeout=60)[0].splitlines() for node in nodes]
    assert [output[-1] for output in outputs] == ["plan"] * 3
    assert log.read_text().splitlines() == ["build"]
    waited = [output for output in outputs if len(output) > 1]
    assert waited and all(
        line == "another process is building the same engine; waiting for it"
        for output in waited
        for line in output[:-1]
    )


def test_the_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    log = tmp_path / "log"
    killed = start(log, 60.0)
    wait_for(log)
    killed.kill()
    killed.communicate()
    after = start(log, 0.0)
    assert after.communicate(timeout=20)[0].splitlines() == ["plan"]
    assert log.read_text().splitlines() == ["build"] * 2


def test_listing_and_removing(folder: Path) -> None:
    assert entries() == []
    Use()()
    Use(plan=b"longer plan")(FACTS | {"rays": 1})
    (folder.parent / "strange").mkdir()
    found = {entry.folder.name: entry for entry in entries()}
    assert found[folder.name].facts == FACTS and found["strange"].facts == {}
    assert found[folder.name].nbytes == sum(file.stat().st_size for file in folder.iterdir())
    assert abs(time.time() - found[folder.name].built_s) < 60
    for entry in entries():
        engine_cache.remove(entry, pytest.fail)
    assert sorted(path.name for path in folder.parent.iterdir()) == [KEY, "key.lock"]
    here = Use()
    assert here() == b"plan" and here.builds == 1


def test_facts_decide(folder: Path) -> None:
    assert engine_key(FACTS) == engine_key(dict(reversed(FACTS.items())))
    assert len({engine_key(FACTS | {name: "other"}) for name in FACTS} | {engine_key(FACTS)}) == 4
