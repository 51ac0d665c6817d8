"""A model with classes through the real node: its labels are those of the predictor, from the camera to the bag."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("torch", reason="the artifact is made with torch")

from bench import CAMERA, FRAME, MOUNT, SECOND, SMALL_GRID, Bench, info_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from processes import Process, parameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from tiny_drive import write_drive

from kyn_models.artifact import Artifact, write_artifact
from kyn_models.palette import class_colour
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import UNKNOWN, Observation, PosedFrame, Prediction
from kyn_ros import convert
from kyn_ros.mount import parameter_text, pose_from_numbers
from kyn_ros.params import GridParameters

messages = pytest.importorskip("kyn.msg", reason="the messages of kyn are not built for this Python")
CLOUDS = ("occupied_voxels", "obstacle_points")


def picture(number: int) -> np.ndarray:
    """A smooth picture of many colours."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 20, 3)).astype(np.uint8)
    return cv2.resize(coarse, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_CUBIC)


def message_of(number: int, stamp_ns: int) -> Image:
    return convert.image_message(Header(stamp=convert.time_message(stamp_ns), frame_id=FRAME), picture(number))


def offline(model: Path, grid: GridParameters) -> Callable[[int], Prediction]:
    """The predictor of a node with ``SMALL_GRID``."""
    predictor = make_predictor(
        Artifact.load(model), PredictorOptions("onnxruntime", grid.spec(), grid.options(), depth_rays=(12, 40))
    )
    return lambda number: predictor.predict(
        Observation((PosedFrame(picture(number), CAMERA),), pose_from_numbers(MOUNT))
    )


def cells(volume: Any, data: Any) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(volume.size_z, volume.size_y, volume.size_x)


def assert_same(volume: Any, grid: Any, expected: Prediction) -> None:
    """A volume and a grid as received say what the predictor says, cell for cell."""
    assert tuple(volume.label_names) == expected.label_names == ("ground", "road", "person", "rider", "car", "truck")
    np.testing.assert_array_equal(cells(volume, volume.data), expected.volume)
    np.testing.assert_array_equal(cells(volume, volume.labels), expected.labels)
    np.testing.assert_array_equal(np.array(grid.data, np.int8).reshape(expected.grid.shape), expected.grid)
    unknown = cells(volume, volume.data) == messages.OccupancyVolume.UNKNOWN
    np.testing.assert_array_equal(cells(volume, volume.labels) == UNKNOWN, unknown)
    assert unknown.any() and not unknown.all()


def test_labels_are_those_of_the_predictor_and_colour_the_clouds(bench, tiny_kyn: Path) -> None:
    one: Bench = bench(model=str(tiny_kyn))
    volumes = one.listen(messages.OccupancyVolume, "occupancy_volume")
    clouds = {topic: one.listen(PointCloud2, topic) for topic in CLOUDS}
    expected = offline(tiny_kyn, GridParameters(resolution_m=0.5, z_m=(-0.5, 3.0)))(8)
    one.send(message_of(8, SECOND), info_of(SECOND))
    assert one.ros.spin_until(lambda: one.grids and volumes and all(clouds.values()), 30.0)
    assert_same(volumes[0], one.grids[0], expected)
    spec, labels = expected.spec, expected.labels
    table = np.array([class_colour(name) for name in expected.label_names])
    for topic, (cloud,) in clouds.items():
        points = np.frombuffer(cloud.data, np.dtype([("xyz", "<f4", 3), ("bgr", "u1", 3), ("", "u1")]))
        x, y, z = np.floor((points["xyz"] - np.array(spec.origin_m)) / spec.resolution_m).astype(int).T
        np.testing.assert_array_equal(points["bgr"][:, ::-1], table[labels[z, y, x]], err_msg=topic)
        assert len(np.unique(points["bgr"], axis=0)) >= 2, topic
    values = values_of(one.wait_for_status("model", DiagnosticStatus.OK, "(kyn) on onnxruntime"))
    assert (values["family"], values["precision"]) == ("kyn", "float32")


def test_another_grid_while_active_has_its_own_labels(bench, tiny_kyn: Path) -> None:
    one: Bench = bench(model=str(tiny_kyn))
    volumes = one.listen(messages.OccupancyVolume, "occupancy_volume")
    one.send(message_of(1, SECOND), info_of(SECOND))
    assert one.ros.spin_until(lambda: volumes, 30.0)
    assert one.node.set_parameters([Parameter("grid.x_m", value=[4.0, 24.0])])[0].successful
    for stamp in range(2, 60):  # answered with the old grid until the new one is prepared
        one.send(message_of(stamp, stamp * SECOND), info_of(stamp * SECOND))
        if one.ros.spin_until(lambda stamp=stamp: volumes[-1].header.stamp.sec == stamp, 5.0) and (
            volumes[-1].size_x == 40
        ):
            break
    assert one.ros.spin_until(lambda: one.grids[-1].header == volumes[-1].header)
    expected = offline(tiny_kyn, GridParameters(x_m=(4.0, 24.0), resolution_m=0.5, z_m=(-0.5, 3.0)))
    assert_same(volumes[-1], one.grids[-1], expected(volumes[-1].header.stamp.sec))


def test_memory_stays_flat(bench, tiny_kyn: Path) -> None:
    one: Bench = bench(model=str(tiny_kyn))
    volumes = one.listen(messages.OccupancyVolume, "occupancy_volume")

    def run(first: int, count: int) -> int:
        """Answers to so many images, each awaited, with a new grid now and then."""
        for number in range(first, first + count):
            if number % 20 == 0:
                new = Parameter("grid.x_m", value=[0.0, 40.0 + number // 20 % 2])
                assert one.node.set_parameters([new])[0].successful
            before = len(volumes)
            one.send(message_of(number % 5, number * SECOND), info_of(number * SECOND))
            one.ros.spin_until(lambda before=before: len(volumes) > before, 2.0)
        answered = len(volumes)
        volumes.clear()
        one.grids.clear()
        return answered

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    run(1, 40)
    before = resident_bytes()
    assert run(41, 80) > 60
    assert resident_bytes() - before < 12e6


def test_build_only(tiny_kyn: Path) -> None:
    options = {"camera_pose": parameter_text(MOUNT), "runtime": "onnxruntime", "build_only": True}
    with Process("kyn_ros.perception_node", *parameters(model=tiny_kyn, **options)) as process:
        assert process.wait(60.0) == 0, process.text
    assert "(kyn), runtime onnxruntime float32" in process.text and "the model is ready, ending" in process.text


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"precision": "float16"}, "precision: got float16"),
        ({"labels": ("road", "car")}, "got 2 labels in artifact.json, expected 6 as decoder.npz has"),
    ],
    ids=["precision", "labels"],
)
def test_what_does_not_fit_is_refused_in_one_sentence(ros, tiny_kyn: Path, tmp_path: Path, changed, words) -> None:
    model, more = tiny_kyn, dict(changed)
    if labels := more.pop("labels", None):
        artifact = Artifact.load(shutil.copytree(tiny_kyn, tmp_path / "model"))
        model = write_artifact(artifact.path, replace(artifact.manifest, labels=labels), {}).path
    one = Bench(ros, {**SMALL_GRID, "model": str(model), "camera_pose": MOUNT, **more}, activate=False)
    assert one.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    status = one.wait_for_status("model", DiagnosticStatus.ERROR, words)
    assert "\n" not in status.message
    assert one.node.finish()


def test_the_demo_records_and_draws_classes(tiny_kyn: Path, tmp_path: Path) -> None:
    rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="the recording is read with rosbags")
    from rclpy.serialization import deserialize_message

    out = tmp_path / "out"
    words = ["--data", str(write_drive(tmp_path / "drive")), "--out", str(out), "--frames", "2"]
    with Process("kyn_ros.cli", "demo", *words, "--model", str(tiny_kyn), "--runtime", "onnxruntime") as demo:
        assert demo.wait(120.0) == 0, demo.text
    assert json.loads((out / "summary.json").read_text())["messages"]["occupancy_volume"] == 2
    with rosbag2.Reader(out / "recording") as reader:
        stored = [raw for connection, _, raw in reader.messages() if connection.topic == "occupancy_volume"]
    seen: set[str] = set()
    for raw in stored:
        volume = deserialize_message(bytes(raw), messages.OccupancyVolume)
        labels = cells(volume, volume.labels)
        np.testing.assert_array_equal(labels == UNKNOWN, cells(volume, volume.data) == messages.OccupancyVolume.UNKNOWN)
        occupied = (cells(volume, volume.data) > 0.65 * 254) & (labels != UNKNOWN)
        seen |= {volume.label_names[number] for number in np.unique(labels[occupied])}
    drawn = cv2.imread(str(out / "frames/000000.png"))
    assert len(stored) == 2 and seen
    # Swatches of the legend are drawn in the plain colour.
    assert any((drawn == class_colour(name)[::-1]).all(axis=-1).sum() > 100 for name in seen), seen
