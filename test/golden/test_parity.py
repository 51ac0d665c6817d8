"""The parity check itself: it passes on the authors' outputs, and anything that differs fails it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs the train extra")

import parity  # noqa: E402

# How differences are found does not depend on the system, so the one whose network is large is left out here.
FIRST = [("bts", "case0"), ("occupancy_metric", "case0")]


@pytest.fixture(scope="module", params=FIRST, ids=[system for system, _ in FIRST])
def computed(request: pytest.FixtureRequest, golden: Path) -> tuple[str, dict, parity.Arrays]:
    """System, arrays of its first case, and our own outputs."""
    system, name = request.param
    with np.load(golden / system / f"{name}.npz") as stored:
        arrays = dict(stored)
    return system, arrays, parity.SYSTEMS[system].outputs(arrays, name, golden / system, "")


def failures(system: str, arrays: dict, got: parity.Arrays) -> list[str]:
    results = list(parity.compare_arrays(system, "case0", arrays, got))
    assert len(results) == len(arrays.keys() - parity.SYSTEMS[system].inputs)
    return [result.name.split()[-1] for result in results if not result.ok]


def part(golden: Path, folder: Path, system: str, *cases: str) -> Path:
    """A folder that holds only some cases of one system, as links."""
    (folder / system).mkdir(parents=True)
    for file in (golden / system).iterdir():
        if file.suffix == ".json" or file.stem in cases:
            (folder / system / file.name).symlink_to(file)
    return folder


@pytest.mark.long
def test_authors_outputs_are_reproduced(golden: Path) -> None:
    script = Path(parity.__file__)
    answer = subprocess.run([sys.executable, script, golden], capture_output=True, text=True, timeout=280)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 failed" in answer.stdout
    for system in parity.EXISTING:
        cases = len(list((golden / system).glob("*.npz")))
        assert len({line.split()[0] for line in answer.stdout.splitlines() if line.startswith(f"{system}/")}) == cases
    for folder in golden.iterdir():
        if folder.is_dir() and folder.name not in parity.EXISTING:
            assert f"{folder.name:44} not implemented" in answer.stdout


def test_every_family_has_a_check() -> None:
    assert set(parity.SYSTEMS) == parity.EXISTING


def test_each_output_is_compared(computed: tuple[str, dict, parity.Arrays]) -> None:
    system, arrays, got = computed
    assert failures(system, arrays, got) == []
    rng = np.random.default_rng(1)
    for name in arrays.keys() - parity.SYSTEMS[system].inputs:
        right = arrays[name]
        entry = tuple(rng.integers(0, right.shape)) if right.ndim else ()
        if right.dtype == bool:
            wrong = right ^ (rng.random(right.shape) < 0.003)
        else:
            wrong = right.copy()
            wrong[entry] += 0.01 * max(1, abs(right[entry])) if right.dtype.kind == "f" else 1
        assert failures(system, {**arrays, name: wrong}, got) == [name]
        assert failures(system, arrays, {**got, name: got[name][..., None]}) == [name]
        assert failures(system, arrays, {k: v for k, v in got.items() if k != name}) == [name]
        if right.dtype.kind == "f":
            wrong = got[name].astype(np.float64)
            wrong[entry] = np.nan
            assert failures(system, arrays, {**got, name: wrong}) == [name]


def test_exempt_cells_have_a_bound_of_their_own() -> None:
    expected, allowed = np.zeros(1000), parity.Allowed(2e-4, exempt=5e-3, at_most=1e-3)
    for cells, error, ok in ((5, 9e-4, True), (6, 9e-4, False), (1, 1.1e-3, False), (1000, 1e-4, True)):
        got = np.where(np.arange(1000) < cells, error, 0.0)
        assert parity.compare("cost", expected, got, allowed).ok == ok, (cells, error)


def test_an_array_that_a_case_lacks_fails(computed: tuple[str, dict, parity.Arrays]) -> None:
    system, arrays, got = computed
    name = min(got)
    results = parity.compare_arrays(system, "case0", {k: v for k, v in arrays.items() if k != name}, got)
    assert [result.name.split()[-1] for result in results if not result.ok] == [name]


def test_perturbed_copy_fails(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = part(golden, tmp_path / "cases", "bts")
    with np.load(golden / "bts" / "case0.npz") as stored:
        arrays = dict(stored)
    arrays["sigma"] = arrays["sigma"].copy()
    arrays["sigma"][4321] += 3e-4
    np.savez(folder / "bts" / "case7.npz", **arrays)
    assert parity.main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert "1 failed" in out and "bts/case7 sigma" in next(line for line in out.splitlines() if "FAILED" in line)


def test_another_salt_fails(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = part(golden, tmp_path / "cases", "bts", "case0")
    assert parity.main([str(folder), "--salt", "other"]) == 1
    failed = {line.split()[1] for line in capsys.readouterr().out.splitlines() if "FAILED" in line}
    # Colours do not depend on weights: with one view every sample of a ray sees the same pixel.
    assert failed == {"features", "sigma", "ray_weights", "ray_depth"}


def test_no_case_fails(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main([str(tmp_path)]) == 1
    (tmp_path / "unknown").mkdir()
    np.savez(tmp_path / "unknown" / "case0.npz", a=np.zeros(1))
    (tmp_path / "bts").mkdir()
    assert parity.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "not implemented (1 cases)" in out and "nothing was compared" in out


def test_a_case_that_cannot_run_fails(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = part(golden, tmp_path, "bts", "case0")
    (folder / "bts" / "state_dict.json").unlink()
    (folder / "bts" / "state_dict.json").write_text('{"encoder.weight": [[1], "float32"]}')
    (folder / "occupancy_metric").mkdir()
    np.savez(folder / "occupancy_metric" / "empty.npz")
    assert parity.main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert "expected the official ones" in out and "KeyError" in out
