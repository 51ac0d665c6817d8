"""``kyn gt-occupancy``: files, what is left out and named, continuing after an end of any kind, several processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_drive as tiny

from kyn_models import cli
from kyn_models.data.drive_truth import truths
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.occupancy_files import frame_name, has_truth, read_truth

ROOT = Path(__file__).resolve().parents[1]
FRAMES = range(5, 17)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_drive(tmp_path / "kitti360", frames=FRAMES)


def command(data: Path, out: Path, *more: str) -> list[str]:
    return ["gt-occupancy", "--data", str(data), "--out", str(out), "--scans", "3", *more]


def started(arguments: list[str], limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kyn_ros.cli", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
    )  # fmt: skip


def children(process: subprocess.Popen[str]) -> list[int]:
    """Processes that work for it (its own child that only counts semaphores is none of them)."""
    found = []
    for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        line = Path(f"/proc/{number}/cmdline").read_bytes()
        found += [int(number)] if b"spawn_main" in line else []
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_masks_have_the_published_form_and_are_what_is_computed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "GT_Occ"
    assert cli.main(command(data, out, "--workers", "1")) == 0
    said = capsys.readouterr().out
    assert "10 frames written" in said and "2 frames left out, fewer than 3 scans" in said
    assert f"{tiny.DRIVE} 15 to 16" in said
    drive = Kitti360(data)
    for frame, truth, _, _ in truths(drive, range(5, 15), 3):
        name = f"{tiny.DRIVE}_{frame:010d}"
        occupied, visible = np.load(out / f"{name}_occgt.npy"), np.load(out / f"{name}_visgt.npy")
        assert occupied.dtype == visible.dtype == np.bool_ and occupied.shape == visible.shape == (460, 80)
        assert truth is not None and (occupied & visible).any()  # before "and not visible"
        np.testing.assert_array_equal(occupied, truth.occupied)
        np.testing.assert_array_equal(visible, truth.visible)
    assert len(list(out.iterdir())) == 21


def test_several_processes_write_the_same_and_a_second_run_only_what_is_missing(data: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    assert cli.main(command(data, one, "--workers", "1")) == 0
    assert cli.main(command(data, many, "--workers", "2")) == 0
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in many.iterdir())
    for path in one.iterdir():
        assert path.read_bytes() == (many / path.name).read_bytes()
    times = {path.name: path.stat().st_mtime_ns for path in many.iterdir()}
    gone = many / f"{tiny.DRIVE}_0000000007_visgt.npy"
    gone.unlink()
    assert cli.main(command(data, many, "--workers", "2")) == 0
    changed = {path.name for path in many.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {gone.name, gone.name.replace("vis", "occ")}


def test_what_a_split_names_and_cannot_be_is_named_and_counted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = Kitti360(data)
    drive.scan_path(8).write_bytes(b"cut")
    drive.scan_path(13).unlink()
    split = tmp_path / "split.txt"
    lines = [f"{tiny.DRIVE} {frame:010d} l" for frame in (5, 7, 10, 10, 12, 14, 99)] + ["unknown 0000000001 l"]
    split.write_text("\n".join(lines))
    out = tmp_path / "out"
    assert cli.main(command(data, out, "--split", str(split))) == 0
    said = capsys.readouterr().out
    assert "3 frames written" in said
    for sentence in (
        "1 frame left out, " + str(drive.scan_path(8)) + ": got 3 bytes",
        f"1 frame left out, fewer than 3 scans from it on: {tiny.DRIVE} 12",
        f"poses.txt: {tiny.DRIVE} 99",
        "unknown: no such drive: unknown 1",
    ):
        assert sentence in said
    assert [frame for frame in FRAMES if has_truth(out, frame_name(tiny.DRIVE, frame))] == [5, 10, 14]
    assert cli.main(command(data, out, "--split", str(split), "--strict")) == 1
    assert "0 frames written, 3 were there" in capsys.readouterr().out
    (data / "data_2d_raw" / "half").mkdir()
    split.write_text(f"{tiny.DRIVE} 5 l\nhalf 1 l\n")
    assert cli.main(command(data, out, "--split", str(split))) == 0
    assert "half 1" in capsys.readouterr().out


def test_a_missing_scan_leaves_a_truth_of_fewer(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Kitti360(data).scan_path(13).unlink()
    assert cli.main(command(data, tmp_path / "out", "--fewest", "2", "--workers", "1")) == 0
    said = capsys.readouterr().out
    named = f"from fewer scans, 2 at least, as the drive ends or scans are missing: {tiny.DRIVE} 11 to 12, 15"
    assert named in said and "left out, fewer than 2 scans from it on: " in said
    assert has_truth(tmp_path / "out", frame_name(tiny.DRIVE, 12))
    assert not has_truth(tmp_path / "out", frame_name(tiny.DRIVE, 13)), "its own scan says what is visible"
    # A second run knows the same of what is there.
    assert cli.main(command(data, tmp_path / "out", "--fewest", "2", "--workers", "1", "--strict")) == 1
    assert named in capsys.readouterr().out


def test_one_side_of_a_split_that_names_both(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = tmp_path / "both.txt"
    split.write_text(f"{tiny.DRIVE} 5 l\n{tiny.DRIVE} 6 r\n")
    assert cli.main(command(data, tmp_path / "left", "--split", str(split), "--camera", "00")) == 0
    assert has_truth(tmp_path / "left", frame_name(tiny.DRIVE, 5))
    assert not has_truth(tmp_path / "left", frame_name(tiny.DRIVE, 6))
    split.write_text(f"{tiny.DRIVE} 5 l\n")
    capsys.readouterr()
    assert cli.main(command(data, tmp_path / "right", "--split", str(split), "--camera", "01")) == 2
    assert "names no frame of camera 01" in capsys.readouterr().err


def test_a_folder_that_nothing_came_into_is_not_left(data: Path, tmp_path: Path) -> None:
    assert cli.main(command(data, tmp_path / "out", "--fewest", "99", "--workers", "1")) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--workers", "0"], "got 3, 3, 1 and 0, expected all at least 1"),
        (["--split", "nowhere.txt"], "there is no such file"),
        (["--scans", "4"], "holds masks from 3 scans for camera 00, expected 4 scans for camera 00"),
        (["--split", "both.txt"], "names frames of both cameras"),
        (["--split", "both.txt", "--every", "2"], "--every: got 2 beside --split"),
        (["--split", "none.txt"], "got no frame with a pose among 1"),
    ],
)
def test_errors_are_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str],
    sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(command(data, tmp_path / "out", "--every", "9", "--workers", "1")) == 0
    Path("both.txt").write_text(f"{tiny.DRIVE} 5 l\n{tiny.DRIVE} 5 r\n")
    Path("none.txt").write_text("elsewhere 5 l\n")
    capsys.readouterr()
    assert cli.main(command(data, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_masks_of_unknown_origin_are_not_mixed_in(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "GT_Occ"
    out.mkdir()
    np.save(out / "a_0000000001_occgt.npy", np.zeros((460, 80), bool))
    assert cli.main(command(data, out)) == 2
    assert "holds masks from an unknown number of scans" in capsys.readouterr().err
    (out / "gt_occupancy.json").write_text("{}")
    assert cli.main(command(data, out)) == 2
    assert "gt_occupancy.json: got something else" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(data: Path, tmp_path: Path, workers: str) -> None:
    out = tmp_path / "out"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    process = started(command(data, out, "--workers", workers), limit)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and error.count("\n") == 1 and "_visgt.npy: file too large" in error
    assert not list(out.glob("*.npy*"))


def slow_scans(data: Path) -> None:
    """Make each scan take a while: 100 times the points."""
    many = np.tile(tiny.scan(), (100, 1))
    for path in sorted((data / "data_3d_raw" / tiny.DRIVE / "velodyne_points" / "data").iterdir()):
        many.tofile(path)


def test_a_killed_worker_is_one_sentence_and_a_second_run_finishes(data: Path, tmp_path: Path) -> None:
    slow_scans(data)
    out = tmp_path / "out"
    process = started(command(data, out, "--workers", "2"))
    wait_for(lambda: list(out.glob("*_occgt.npy")))
    os.kill(children(process)[0], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and "a worker process died" in error and error.count("\n") == 1
    before = {path.name for path in out.glob("*.npy")}
    assert 0 < len(before) < 20
    tiny_scans = tiny.scan()
    for frame in FRAMES:
        tiny_scans.tofile(Kitti360(data).scan_path(frame))
    process = started(command(data, out, "--workers", "2"))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "10 frames written" not in said
    for frame in range(5, 15):
        assert read_truth(out, frame_name(tiny.DRIVE, frame)).occupied.any()
    assert not list(out.glob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_command(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    slow_scans(data)
    process = started(command(data, tmp_path / "out", "--workers", "2"))
    wait_for(lambda: list((tmp_path / "out").glob("*_occgt.npy")))
    workers = children(process)
    assert len(workers) == 2
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130) and "Traceback" not in error
    wait_for(lambda: not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers), 10)


def test_ranks_share_the_frames(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torchrun is torch's")
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "kyn_ros.cli",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = command(data, tmp_path / "out", "--workers", "1")
    done = subprocess.run(
        [*torchrun, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("10 frames written") == 1 and done.stdout.count("left out") == 1
    assert len(list((tmp_path / "out").glob("*.npy"))) == 20
