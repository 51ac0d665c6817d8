"""The main job on real KITTI-360 frames, judged from what the demo recorded, by a reader that is not ours."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mcap_ros2", reason="the recording is read with the package mcap-ros2-support")

import av
import cv2
from recorded_demo import recorded, run_demo

from kyn_models.artifact import Artifact, default_artifact
from kyn_models.data.kitti360 import Kitti360
from kyn_models.predictors import make_predictor
from kyn_models.types import Observation
from kyn_ros.mount import numbers_from_pose, parameter_text, pose_from_numbers, pose_from_quaternion

FRAMES = 12
PER_IMAGE = ("occupancy_grid", "occupancy_volume", "depth/image_rect", "depth/camera_info", "points", "obstacle_points")


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


@pytest.fixture(scope="module")
def demo(shared_data, tmp_path_factory) -> Path:
    if not default_artifact().is_dir():
        pytest.fail("the shipped model is missing, expected it in kyn_models/weights")
    return run_demo(tmp_path_factory.mktemp("demo"), "--data", shared_data / "kitti360", "--frames", FRAMES)


@pytest.fixture(scope="module")
def messages(demo) -> dict[str, dict[int, object]]:
    found: dict[str, dict[int, object]] = {}
    for topic, message in recorded(demo):
        found.setdefault(topic, {})[0 if topic == "tf_static" else stamp_ns(message)] = message
    return found


@pytest.fixture(scope="module")
def drive(shared_data) -> Kitti360:
    return Kitti360(shared_data / "kitti360")


def test_every_image_is_answered_once_with_its_stamp(demo, messages):
    stamps = sorted(messages["image"])
    assert len(stamps) == FRAMES
    for topic in PER_IMAGE:
        assert sorted(messages[topic]) == stamps, topic


def test_summary_pictures_and_video_count_the_same_frames(demo):
    summary = json.loads((demo / "summary.json").read_text())
    assert summary["frames_in"] == FRAMES
    assert summary["messages"]["occupancy_grid"] == FRAMES
    assert summary["latency_ms"]["median"] > 0 and summary["latency_ms"]["p95"] >= summary["latency_ms"]["median"]
    assert {"encode", "depth", "volume"} <= set(summary["stages_ms"])
    assert summary["runtime"] in ("openvino", "onnxruntime", "torch") and summary["model"] != "unknown"
    pictures = sorted((demo / "frames").glob("*.png"))
    assert len(pictures) == FRAMES
    assert cv2.imread(str(pictures[0])).std() > 10
    with av.open(str(demo / "demo.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in video.decode(video=0)) == FRAMES


def test_the_mount_is_recorded(messages, drive):
    (transform,) = messages["tf_static"][0].transforms
    assert transform.header.frame_id == "base_link"
    assert transform.child_frame_id == next(iter(messages["image"].values())).header.frame_id
    t, q = transform.transform.translation, transform.transform.rotation
    pose = pose_from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
    np.testing.assert_allclose(pose, drive.base_from_camera(), atol=1e-6)


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_and_all_it_started(shared_data, tiny_artifact, tmp_path, number):
    model = shutil.copytree(tiny_artifact, tmp_path / "a_model_of_its_own")
    command = [sys.executable, "-u", "-m", "kyn_ros.cli", "demo", "--data", str(shared_data / "kitti360")]
    demo = subprocess.Popen(
        [*command, "--model", str(model), "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # What runs the tests may ignore it, as nohup does, and a demo inherits that.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "active, waiting for images" in line:
            break
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130 and "Traceback" not in rest
    assert not [file for file in Path("/proc").glob("[0-9]*/cmdline") if b"a_model_of_its_own" in content(file)]


def grids(messages) -> list[np.ndarray]:
    found = [message for _, message in sorted(messages["occupancy_grid"].items())]
    return [np.asarray(g.data, dtype=np.int8).reshape(g.info.height, g.info.width) for g in found]


def test_every_grid_has_all_three_values_and_the_street_moves(messages):
    cells = grids(messages)
    for number, grid in enumerate(cells):
        assert set(np.unique(grid)) == {-1, 0, 100}, number
    assert (cells[0] != cells[10]).mean() > 0.01


def test_road_depth_agrees_with_the_lidar(messages, drive):
    """Within 20 % for at least half of the road points, over all frames."""
    close = total = 0
    camera_from_base = np.linalg.inv(drive.base_from_camera())
    stamps = sorted(messages["depth/image_rect"])
    for frame, stamp in zip(drive.frames[:FRAMES], stamps, strict=True):
        image, info = messages["depth/image_rect"][stamp], messages["depth/camera_info"][stamp]
        assert image.encoding == "32FC1"
        depth = np.frombuffer(image.data, dtype=np.float32).reshape(image.height, image.width)
        scan = drive.scan(frame)[:, :3].astype(np.float64)
        base = scan @ drive.base_from_velo()[:3, :3].T + drive.base_from_velo()[:3, 3]
        road = base[(np.abs(base[:, 2]) < 0.15) & (np.abs(base[:, 1]) < 2.5) & (base[:, 0] > 6) & (base[:, 0] < 25)]
        points = road @ camera_from_base[:3, :3].T + camera_from_base[:3, 3]
        u = np.rint(points[:, 0] / points[:, 2] * info.k[0] + info.k[2]).astype(int)
        v = np.rint(points[:, 1] / points[:, 2] * info.k[4] + info.k[5]).astype(int)
        inside = (u >= 0) & (u < image.width) & (v >= 0) & (v < image.height)
        found, truth = depth[v[inside], u[inside]], points[inside, 2]
        close += int((np.abs(found - truth) < 0.2 * truth).sum())
        total += int(inside.sum())
    assert total > 1000
    assert close / total >= 0.5, f"{close / total:.2f} of {total} road points"


def test_a_recorded_frame_equals_the_predictor_cell_for_cell(messages, drive):
    predictor = make_predictor(Artifact.load(default_artifact()))
    number = 5
    stamp = sorted(messages["occupancy_grid"])[number]
    # The mount as the node got it: nine digits of a parameter, which move a few of 400,000 bytes by one.
    mount = pose_from_numbers(json.loads(parameter_text(numbers_from_pose(drive.base_from_camera()))))
    prediction = predictor.predict(Observation(drive.sample(drive.frames[number]).observation.frames, mount))
    np.testing.assert_array_equal(grids(messages)[number], prediction.grid)
    volume = messages["occupancy_volume"][stamp]
    cells = np.frombuffer(bytes(volume.data), dtype=np.uint8)
    np.testing.assert_array_equal(cells.reshape(volume.size_z, volume.size_y, volume.size_x), prediction.volume)
    depth = messages["depth/image_rect"][stamp]
    np.testing.assert_array_equal(
        np.frombuffer(depth.data, np.float32).reshape(prediction.depth_m.shape), prediction.depth_m
    )
