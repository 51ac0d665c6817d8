"""``kyn bench-node`` with a real node in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the node needs ROS 2")

from processes import ROOT, Process, path_with

from kyn_ros.bench_node_command import highest_rate
from kyn_ros.node_load import Load
from kyn_ros.node_report import ROWS, keeps_up, measures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        cv2.imwrite(str(path / f"{number}.png"), np.full((94, 352, 3), 60 * number, np.uint8))
    return path


def words(model: Path, pictures: Path, *more: str) -> list[str]:
    small = ["-p", "grid.resolution_m:=0.5", "-p", "grid.z_m:=[-0.5, 3.0]", "-p", "depth_rays:=[12, 40]"]
    return ["bench-node", "--images", str(pictures), "--model", str(model), "--runtime", "onnxruntime", *small, *more]


def left_behind(model: Path) -> list[Path]:
    """Processes that still work with this model."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(model).encode() in file.read_bytes():
                found.append(file)
        except OSError:  # it ended meanwhile
            continue
    return found


@pytest.fixture(scope="module")
def report(model, pictures, tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("report") / "node.json"
    command = [sys.executable, "-m", "kyn_ros.cli", *words(model, pictures, "--rates", "10", "5", "--seconds", "1.5")]
    environment = {**os.environ, "PYTHONPATH": path_with(ROOT)}
    done = subprocess.run(
        [*command, "--json", str(path)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not left_behind(model)
    for _, text, _ in ROWS:
        assert text in done.stdout
    return json.loads(path.read_text())


def test_every_rate_is_reported_with_all_fields(report):
    assert [row["rate_hz"] for row in report["rates"]] == [10, 5]
    assert [row["frames_sent"] for row in report["rates"]] == [15, 8]
    for row in report["rates"]:
        assert {key for key, _, _ in ROWS} <= set(row)
        assert row["frames_received"] + row["frames_missed"] == row["frames_sent"]
        assert row["frames_received"] > 0
        assert 0 < row["latency_median_ms"] <= row["latency_p95_ms"] <= row["latency_max_ms"]
        assert 0 <= row["jitter_min_ms"] <= row["jitter_mean_ms"] <= row["jitter_max_ms"]
        assert 0 < row["memory_mean_mb"] <= row["memory_peak_mb"] + 1
        assert row["cpu_percent"] > 0
        assert row["ros_added_ms"] == pytest.approx(row["latency_median_ms"] - row["predict_ms"], abs=0.01)
        assert set(row["other_messages"]) == {"occupancy_volume", "depth/image_rect"} - set(report["not_subscribed"])
    assert report["node"]["runtime"] == "onnxruntime" and report["hardware"]["cores_used"] >= 1


def test_a_node_that_refuses_is_one_sentence(model, pictures):
    bad = words(model, pictures, "-p", "grid.min_height_m:=9.0")
    with Process("kyn_ros.cli", *bad) as process:
        assert process.wait(60.0) == 2
        lines = [line for line in process.text.splitlines() if line.startswith("kyn bench-node: ")]
        assert len(lines) == 1 and "the perception node refused: " in lines[0] and "grid.min_height_m" in lines[0]
    assert not left_behind(model)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_while_measuring(number, model, pictures):
    many = words(model, pictures, "--seconds", "0.5", "--rates", *["10"] * 100)
    with Process("kyn_ros.cli", *many) as process:
        process.wait_for_text("10 images per second: ")
        assert len(left_behind(model)) == 2
        process.signal(number)
        assert process.wait(20.0) == 130
        assert "Traceback" not in process.text
    assert not left_behind(model)


def test_ctrl_c_ends_everything_while_the_node_starts(model, pictures):
    with Process("kyn_ros.cli", *words(model, pictures)) as process:
        end = time.monotonic() + 30
        while len(left_behind(model)) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.signal(signal.SIGINT)
        assert process.wait(20.0) == 130
        assert "Traceback" not in process.text
    assert not left_behind(model)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--rates", "0"], "--rates: got 0"),
        (["--seconds", "0"], "--seconds: got 0"),
        (["-p", "grid.mode"], "expected NAME:=VALUE"),
        (["--json", "nowhere/x.json"], "--json: nowhere is no folder"),
    ],
)
def test_wrong_options_are_refused_at_once(option, sentence, model, pictures, capsys):
    from kyn_ros import cli

    assert cli.main(words(model, pictures, *option)) == 2
    assert sentence in capsys.readouterr().err


def load(latencies_ms: dict[int, float], sent: int, rate_hz: float = 10.0) -> Load:
    moments = {number: number / rate_hz for number in range(sent)}
    received = {number: moments[number] + latency / 1e3 for number, latency in latencies_ms.items()}
    return Load(rate_hz, moments, received, stages_ms={"warp": 1.0, "encode": 28.0, "labels": 2.0, "wait": 50.0})


def test_numbers_of_a_load_that_is_known():
    found = measures(load({0: 50.0, 1: 40.0, 2: 60.0}, 4))
    assert (found["frames_sent"], found["frames_received"], found["frames_missed"]) == (4, 3, 1)
    assert (found["latency_first_ms"], found["latency_last_ms"], found["latency_max_ms"]) == (50.0, 60.0, 60.0)
    assert found["latency_mean_ms"] == pytest.approx(50.0) and found["latency_median_ms"] == pytest.approx(50.0)
    assert (found["jitter_min_ms"], found["jitter_max_ms"], found["jitter_mean_ms"]) == (10.0, 20.0, 15.0)
    assert found["predict_ms"] == 31.0 and found["ros_added_ms"] == pytest.approx(19.0)
    assert found["mean_sent_hz"] == pytest.approx(10.0)


def test_a_grid_of_a_stamp_that_was_not_sent_counts_for_nothing():
    strange = load({0: 50.0}, 4)
    strange.received[99] = 1.0
    assert measures(strange)["frames_received"] == 1


def test_nothing_received_is_no_number():
    found = measures(load({}, 4))
    assert found["frames_missed"] == 4 and found["latency_mean_ms"] is None and found["ros_added_ms"] is None
    assert not keeps_up(load({}, 4))
    json.dumps(found, allow_nan=False)


def test_five_percent_is_too_many():
    assert keeps_up(load(dict.fromkeys(range(96), 50.0), 100))
    assert not keeps_up(load(dict.fromkeys(range(95), 50.0), 100))


@pytest.mark.parametrize("limit", [0.6, 3.0, 8.0, 15.3, 47.0, 400.0])
def test_the_search_finds_the_limit(limit):
    tried = []

    def keeps(rate_hz: float) -> bool:
        tried.append(rate_hz)
        return rate_hz <= limit

    assert limit / 1.06 <= highest_rate(keeps) <= limit
    assert len(tried) < 16


def test_the_search_ends_without_a_limit():
    assert highest_rate(lambda rate_hz: False) == 0.0
    assert 500 <= highest_rate(lambda rate_hz: True) <= 1000
