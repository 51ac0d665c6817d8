"""``kyn bench``: its numbers hang together and mean what they say. Never how large they are: that is the machine's."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from kyn_models import cells, cli
from kyn_models.artifact import KITTI360_CAMERA, TrainingCamera
from kyn_models.benchmark import floor
from kyn_models.benchmark.case import Case, read_images, write_images
from kyn_models.benchmark.comparison import STAGES, add_ratios, difference, summary
from kyn_models.benchmark.floor import Work, compare, count_encoder
from kyn_models.benchmark.images import MOST, pictures, spread, street_images
from kyn_models.benchmark.laboratory import Laboratory, Outcome, grid_in_view
from kyn_models.benchmark.machine import Rates
from kyn_models.cli import bench as bench_command

SMALL = ["--voxels", "2000", "--depth-rays", "12", "40", "--repeat", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four pictures that differ, of the training camera's shape but not its size."""
    path, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    for number in range(4):
        coarse = rng.integers(0, 256, (6, 20, 3)).astype(np.uint8)
        cv2.imwrite(str(path / f"{number}.png"), cv2.resize(coarse, (320, 96), interpolation=cv2.INTER_CUBIC))
    (path / "notes.txt").write_text("no picture")
    return path


@pytest.fixture(scope="module")
def report(tiny_artifact, folder, tmp_path_factory) -> dict:
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("report") / "bench.json"
    words = ["bench", "--model", str(tiny_artifact), "--images", str(folder), "--runtime", "onnxruntime"]
    assert cli.main([*words, "--precision", "float32", "bfloat16", *SMALL, "--threads", "1", "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_the_case_that_runs_is_measured_and_the_other_has_its_reason(report):
    (case,) = report["cases"]
    assert (case["runtime"], case["precision"], case["frames"]) == ("onnxruntime", "float32", 8)
    (missing,) = report["not_run"]
    assert missing["case"] == "onnxruntime bfloat16" and "expected float32" in missing["reason"]


def test_stages_fit_into_the_frame(report):
    for row in (report["cases"][0], report["plain"]):
        medians = [times["median"] for times in row["stages_ms"].values()]
        assert set(row["stages_ms"]) <= set(STAGES) and {"encode", "depth", "volume"} <= set(row["stages_ms"])
        assert all(0 <= times["median"] <= times["p95"] for times in (*row["stages_ms"].values(), row["frame_ms"]))
        assert 0 < max(medians) <= row["frame_ms"]["p95"]
        assert row["frames_per_second"] == pytest.approx(1e3 / row["frame_ms"]["median"])
    decoding = report["cases"][0]["decoding_ms"]["median"]
    encoder = report["cases"][0]["stages_ms"]["encode"]["median"]
    assert report["cases"][0]["decoding_ratio"] == pytest.approx(decoding / encoder)


def test_answers_belong_to_images_and_agree_with_the_plain_path(report):
    case = report["cases"][0]
    assert case["same_image_same_answer"] and case["other_image_other_answer"]
    assert len(set(case["checksums"])) == 4
    found = case["difference"]
    assert 0 < found["density_max"] < 1e-3 and found["density_mean"] <= found["density_max"]
    assert found["depth_max_m"] < 0.2 and found["sky_share"] < 0.01 and found["grid_share"] < 0.01


def test_memory_floor_and_machine_are_written(report):
    case = report["cases"][0]
    assert 20 < case["before_mb"] < case["peak_mb"] < 4000
    assert 0 < case["cells_in_view"] <= case["cells"] == report["cells"]
    assert report["rates"]["multiply_adds"] > 1e8 and report["rates"]["bytes"] > 1e8
    assert set(case["floor"]) == {"encode", "depth", "volume", "together"}
    for stage in ("depth", "volume"):
        work, rates = report["work"][stage], report["rates"]
        floor = 1e3 * max(work["multiply_adds"] / rates["multiply_adds"], work["bytes"] / rates["bytes"])
        assert case["floor"][stage]["floor_ms"] == pytest.approx(floor)
        times = case["stages_ms"][stage]["median"] / floor
        assert case["floor"][stage]["times_the_floor"] == pytest.approx(times)
    assert report["hardware"]["cores_used"] == 1 and report["hardware"]["libraries"]["numpy"] == np.__version__
    assert report["date"].startswith("20") and report["image_count"] == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--threads", "0"], "--threads: got 0, expected 1 to"),
        (["--repeat", "0"], "--repeat: got 0"),
        (["--json", "nowhere/bench.json"], "--json: nowhere is no folder"),
        (["--json", "."], "expected the name of a file"),
        (["--drive", "one"], "--drive: got a drive without --data"),
        (["--depth-rays", "0", "4"], "--depth-rays: got 0 4"),
        (["--voxels", "3"], "--voxels: got 3, expected at least 32"),
        (["--grid", "0", "10", "-1", "1", "0", "2", "0"], "grid.resolution_m: got 0"),
        (["--sweep", "plot.pdf"], "expected a name that ends in .png"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(words, sentence, tiny_artifact, folder, capsys, monkeypatch):
    monkeypatch.setattr(Laboratory, "_run", None)
    given = [] if "--drive" in words else ["--images", str(folder)]
    assert cli.main(["bench", "--model", str(tiny_artifact), *given, *words]) == 2
    text = capsys.readouterr().err
    assert sentence in text and len(text.splitlines()) == 1


def test_too_few_images_and_two_sizes_are_refused(folder, tmp_path, tiny_artifact, capsys):
    assert cli.main(["bench", "--model", str(tiny_artifact), "--images", str(folder / "0.png")]) == 2
    assert "images: got 1 from" in capsys.readouterr().err
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.zeros((40, 60, 3), np.uint8))
    assert cli.main(["bench", "--model", str(tiny_artifact), "--images", str(folder), str(other)]) == 2
    assert "got sizes 60x40, 320x96" in capsys.readouterr().err


def test_no_runtime_that_works_is_one_sentence(tiny_artifact, folder, capsys):
    words = ["bench", "--model", str(tiny_artifact), "--images", str(folder), "--runtime", "onnxruntime"]
    assert cli.main([*words, "--precision", "float16", *SMALL]) == 2
    assert "none of onnxruntime float16 can be run here" in capsys.readouterr().err


def test_pictures_of_the_training_size_have_the_training_camera(tmp_path):
    camera = TrainingCamera()
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.full((376, 1408, 3), 40 * number, np.uint8))
    images = pictures([tmp_path], camera)
    assert all(item.key.intrinsics == camera.source for item in images.observations)
    assert "the training camera" in images.source


@pytest.mark.long
def test_our_own_streets_are_called_that():
    pytest.importorskip("numba")
    images = street_images()
    assert "synthetic" in images.source
    assert {item.key.image.shape for item in images.observations} == {(376, 1408, 3)}
    assert len({item.key.image.tobytes() for item in images.observations}) == 3


def test_a_long_drive_is_taken_from_end_to_end():
    assert spread(range(100))[0] == 0 and spread(range(100))[-1] == 99 and len(spread(range(100))) == MOST
    assert spread([1, 2]) == [1, 2] and spread([]) == []


def test_images_survive_the_way_into_the_process(folder, tmp_path):
    images = pictures([folder], TrainingCamera()).observations
    write_images(tmp_path / "images.npz", images)
    for before, after in zip(images, read_images(tmp_path / "images.npz"), strict=True):
        np.testing.assert_array_equal(before.key.image, after.key.image)
        np.testing.assert_array_equal(before.base_from_camera, after.base_from_camera)
        assert before.key.intrinsics == after.key.intrinsics


@pytest.mark.parametrize("voxels", [32, 50_000, 1 << 20])
def test_grid_in_view(voxels):
    spec = grid_in_view(voxels)
    camera = KITTI360_CAMERA.resized(640, 192)
    index, _, _ = cells.cells_in_camera(spec, TrainingCamera().base_from_camera(), camera, (3.0, 80.0), 1.0)
    assert len(index) == np.prod(spec.shape)
    assert np.prod(spec.shape) == pytest.approx(voxels, rel=0.2)
    if voxels == 1 << 20:
        assert np.prod(spec.shape) == voxels and spec.resolution_m == pytest.approx(0.2)


def outcome(checksums: list[list[int]]) -> Outcome:
    times = [4.0, 5.0, 6.0]
    result = {"runtime": "a", "precision": "float32", "frames_ms": times, "checksums": checksums}
    result["stages_ms"] = {"encode": [1.0, 1.0, 1.0], "depth": [1.0, 2.0, 1.0], "volume": [1.0, 1.0, 3.0]}
    return Outcome(Case("model", "a", "float32"), result, {}, "")


def test_checksums_tell_a_constant_and_an_unsteady_answer():
    good, constant = summary(outcome([[1, 1], [2, 2]])), summary(outcome([[1, 1], [1, 1]]))
    unsteady = summary(outcome([[1, 3], [2, 2]]))
    assert good["same_image_same_answer"] and good["other_image_other_answer"]
    assert constant["same_image_same_answer"] and not constant["other_image_other_answer"]
    assert not unsteady["same_image_same_answer"]


def test_decoding_is_the_sum_of_each_frame():
    row = summary(outcome([[1], [2]]))
    assert row["decoding_ms"]["median"] == 3.0 and row["frame_ms"]["median"] == 5.0
    assert row["frames_per_second"] == 200.0


def test_a_column_of_labels_is_shown_where_a_model_has_them():
    row = summary(outcome([[1], [2]])) | {"gpu_mb": None, "before_mb": 1.0, "peak_mb": 2.0}
    labelled = outcome([[1], [2]])
    labelled.result["stages_ms"]["labels"] = [7.0, 7.0, 7.0]
    assert summary(labelled)["stages_ms"]["labels"]["median"] == 7.0
    texts = bench_command._times(row, ["encode", "labels"])
    assert texts[:2] == ["1.0 / 1.0", "-"]


def test_ratios_are_to_the_own_float32_encoder_else_to_the_fastest():
    rows = [summary(outcome([[1], [2]])) for _ in range(3)]
    rows[1] |= {"runtime": "b", "stages_ms": {"encode": {"median": 0.5, "p95": 1.0}}}
    rows[2] |= {"runtime": "c", "precision": "float16"}
    add_ratios(rows)
    assert [row["ratio_to"] for row in rows] == ["a float32", "b float32", "b float32"]
    assert [row["decoding_ratio"] for row in rows] == [3.0, 6.0, 6.0]


def test_difference_is_of_what_both_call_finite():
    plain = {}
    for number in range(3):
        plain |= {
            f"density{number}": np.array([1.0, 2.0], np.float32),
            f"depth{number}": np.array([[5.0, np.inf, np.inf, 7.0]], np.float32),
            f"grid{number}": np.array([[0, 100, -1, 0]], np.int8),
        }
    other = {name: array.copy() for name, array in plain.items()}
    assert set(difference(other, plain).values()) == {0.0}
    other["density1"][1] = 2.5
    other["depth0"][0] = [6.0, np.inf, 9.0, 7.0]
    other["grid2"][0, 0] = 100
    found = difference(other, plain)
    assert found["density_max"] == 0.5 and found["density_mean"] == pytest.approx(0.5 / 6)
    assert found["depth_max_m"] == 1.0 and found["depth_mean_m"] == pytest.approx(1 / 6)
    assert found["sky_share"] == pytest.approx(1 / 12) and found["grid_share"] == pytest.approx(1 / 12)


def test_multiply_adds_of_a_graph(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def weight(name: str, *shape: int):
        return numpy_helper.from_array(np.zeros(shape, np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "full"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("MatMul", ["b", "square"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 16])],
        [weight("full", 8, 3, 3, 3), weight("depthwise", 8, 1, 3, 3), weight("square", 16, 16)],
    )
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    out = 8 * 8 * 16
    assert count_encoder(path) == {"multiply_adds": out * 27 + out * 9 + out * 16, "map": out}


def test_without_onnx_the_encoder_is_not_counted(tiny_artifact, monkeypatch):
    from kyn_models.artifact import Artifact

    monkeypatch.setattr(floor, "count_encoder", lambda path: None)
    work = floor.count_work(Artifact.load(tiny_artifact), 480, 1000)
    assert work["encode"].multiply_adds is None and work["depth"].multiply_adds > 480 * 64 * 16
    rows = compare(work, Rates(1e9, 1e9), {"encode": 1.0, "depth": 1.0, "volume": 1.0})
    assert rows["encode"]["times_the_floor"] is None and "together" not in rows


def test_the_floor_is_the_longer_of_computing_and_moving():
    rates = Rates(multiply_adds=1e9, bytes=1e9)
    assert Work(2e6, 1e6).floor_ms(rates) == pytest.approx(2.0)
    assert Work(1e6, 3e6).floor_ms(rates) == pytest.approx(3.0)


def test_seeded_models_are_made_once_and_again_where_damaged(borrowed_engines, tmp_path, monkeypatch):
    for library in ("torch", "safetensors", "onnx", "onnxscript"):
        pytest.importorskip(library, reason="making an artifact needs the train extra")
    from artifacts import TINY

    from kyn_models.artifact import DECODER
    from kyn_models.models.seeded import cached_artifact

    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "cache"))
    said: list[str] = []
    made = cached_artifact(TINY, 160, 64, said.append)
    assert made.path.parent == tmp_path / "cache" / "models" and (made.camera.width, made.camera.height) == (160, 64)
    assert len(said) == 1
    assert cached_artifact(TINY, 160, 64, said.append).hash == made.hash and len(said) == 1
    (made.path / DECODER).write_bytes(b"damaged")
    assert cached_artifact(TINY, 160, 64, said.append).hash == made.hash
    assert "made again" in said[1] and [path.name for path in made.path.parent.iterdir()] == [made.path.name]


def test_seeded_models_are_listed_and_cleaned_with_the_engines(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path))
    models = tmp_path / "models"
    for name, days in (("seeded-a", 0), ("seeded-b", 3), (".making-new", 0), (".making-old", 4)):
        (models / name).mkdir(parents=True)
        (models / name / "weights").write_bytes(bytes(1_500_000))
        os.utime(models / name, (time.time() - days * 86400,) * 2)
    assert cli.main(["engine", "list"]) == 0
    *listed, total = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == ["seeded-a", "seeded-b", ".making-old"]
    assert total == f"0 engines, 0.0 MB, and 3 models of `kyn bench --seeded`, 4.5 MB, in {tmp_path}"
    assert cli.main(["engine", "clean", "--older-than", "1"]) == 0
    assert "removed 0 engines, 0.0 MB, and 2 models" in capsys.readouterr().out
    assert sorted(path.name for path in models.iterdir()) == [".making-new", "seeded-a"]
    assert cli.main(["engine", "clean", "--all"]) == 0
    assert "1 model of `kyn bench --seeded`, 1.5 MB" in capsys.readouterr().out
    assert [path.name for path in models.iterdir()] == [".making-new"], "it is being made"


@pytest.mark.long
def test_sweep_measures_every_axis(tiny_artifact, borrowed_engines, folder, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the plot needs the plot extra")
    from kyn_models.benchmark import sweep

    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "VOXELS", (256, 2048))
    monkeypatch.setattr(sweep, "RAYS", ((6, 20), (12, 40)))
    monkeypatch.setattr(sweep, "IMAGES", ((64, 160), (96, 320)))
    words = ["bench", "--model", str(tiny_artifact), "--images", str(folder), "--runtime", "onnxruntime", *SMALL]
    json_file, plot = tmp_path / "sweep.json", tmp_path / "sweep.png"
    words += ["--precision", "float32", "--no-plain", "--repeat", "1", "--sweep", str(plot), "--json", str(json_file)]
    assert cli.main(words) == 0
    found = json.loads(json_file.read_text())["sweep"]
    assert found["not_run"] == ""
    for axis, rows in found["axes"].items():
        assert len(rows) == 2 and rows[0]["at"] < rows[1]["at"], axis
        assert all(row["frame"] > 0 for row in rows)
    assert found["axes"]["voxels in view"][0]["at"] == 256
    assert cv2.imread(str(plot)).std() > 1
