"""``kyn bench`` of a model of several frames: what it says, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from kyn_models.cli import main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures that are alike and not the same."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rough = np.random.default_rng(0).integers(0, 255, (24, 90, 3), np.uint8)
    large = cv2.resize(rough, (1440, 384), interpolation=cv2.INTER_CUBIC)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), large[:376, 8 * number : 8 * number + 1408])
    return folder


def test_runtimes_and_the_cost_volume_are_measured(
    tiny_frames: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="one of the runtimes that are measured")
    out = tmp_path / "bench.json"
    command = ["bench", "--model", str(tiny_frames), "--images", str(pictures), "--repeat", "1", "--json", str(out)]
    assert main([*command, "--runtime", "onnxruntime", "torch"]) == 0
    said = capsys.readouterr().out
    assert "cost volume: compiled" in said and "in the same run" in said
    report = json.loads(out.read_text())
    assert [row["runtime"] for row in report["cases"]] == ["onnxruntime", "torch"] and not report["not_run"]
    for row in report["cases"]:
        assert row["precision"] == "float32"
        times = row["times_ms"]
        assert times["frame"]["median"] > times["mono alone"]["median"] > 0
        assert row["frames_per_second"] == pytest.approx(1e3 / times["frame"]["median"])
        assert row["peak_mb"] > row["before_mb"] > 0
        assert row["difference"]["fused"] < 1e-4 and row["difference"]["mono"] < 1e-6
    assert report["cost_volume"]["difference"] < 1e-3
    times = report["cost_volume"]["times_ms"]
    assert times["torch"]["median"] > 0 and times["compiled"]["median"] > 0


def test_half_precision_is_measured_where_it_is_asked_for(
    tiny_frames: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="the runtime with half precision for such models")
    out = tmp_path / "bench.json"
    command = ["bench", "--model", str(tiny_frames), "--images", str(pictures), "--repeat", "1", "--json", str(out)]
    assert main([*command, "--no-plain", "--runtime", "openvino", "--precision", "float32", "bfloat16"]) == 0
    assert "bfloat16" in capsys.readouterr().out
    report = json.loads(out.read_text())
    measured = [row["precision"] for row in report["cases"]]
    refused = [row["case"] for row in report["not_run"]]
    assert measured == ["float32", "bfloat16"] or (measured, refused) == (["float32"], ["openvino bfloat16"])


def test_options_that_mean_nothing_for_such_a_model_are_refused(
    tiny_frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--model", str(tiny_frames), "--voxels", "1000"]) == 2
    assert "--voxels" in capsys.readouterr().err
