"""``kyn engine`` without a GPU: what is cached is listed and removed, and building says what is missing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kyn_models import cli
from kyn_models.runtimes.cuda_device import gpu_count
from kyn_models.runtimes.engine_cache import EngineCache, EngineKey

KEY = EngineKey("tensorrt", "10.3.0.30", "ab" * 32, "Orin", "8.7", 12, "float16", "ray_grid:1x1x8x2", "")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path))
    cache = EngineCache(print, print)
    assert cache.root == tmp_path / "engines"
    return cache


def write(plan: Path, timing: Path) -> None:
    plan.write_bytes(b"x" * 2_000_000)


def test_listing(cache: EngineCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["engine", "list"]) == 0
    assert capsys.readouterr().out == f"0 engines in {cache.root}\n"
    cache.get(KEY, write)
    assert cli.main(["engine", "list"]) == 0
    text = capsys.readouterr().out
    assert "2.0 MB" in text and "tensorrt 10.3.0.30  Orin (8.7)  float16  ray_grid:1x1x8x2" in text
    assert text.endswith(f"1 engines in {cache.root}\n")


def test_cleaning(cache: EngineCache, capsys: pytest.CaptureFixture[str]) -> None:
    for version in ("10.3.0.30", "10.16.0.1"):
        cache.get(EngineKey(**{**vars(KEY), "version": version}), write)
    old = cache.entries()[0]
    os.utime(old.folder / "engine.plan", times=(time.time() - 10 * 86400,) * 2)
    assert cli.main(["engine", "clean", "--older-than", "3"]) == 0
    assert "removed 1 of 2 engines" in capsys.readouterr().out and len(cache.entries()) == 1
    assert cli.main(["engine", "clean"]) == 0
    assert not cache.entries() and not list(cache.root.glob("*/engine.plan"))
    assert cli.main(["engine", "clean", "--older-than", "nan"]) == 2
    assert "--older-than: got nan days, expected 0 or more" in capsys.readouterr().err


def test_building_needs_a_gpu(cache: EngineCache, capsys: pytest.CaptureFixture[str]) -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU")
    assert cli.main(["engine", "build"]) == 2
    assert capsys.readouterr().err == (
        "kyn engine: no NVIDIA GPU found here by its driver (libcuda.so.1); build the engine where it will run\n"
    )
    assert cli.main(["engine", "build", "--points", "0"]) == 2
    assert "expected all at least 1" in capsys.readouterr().err
    assert cli.main(["engine", "build", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
