"""A model of depth from posed frames in the perception node: the node says what the predictor says offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import CAMERA, FRAME, MOUNT, SMALL_GRID, Bench, info_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kyn_models.artifact import Artifact
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import Observation, PosedFrame
from kyn_ros import convert
from kyn_ros.mount import pose_from_numbers
from kyn_ros.params import GridParameters

MS = 1_000_000


@pytest.fixture(scope="module")
def posed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an artifact with weights alone."""
    for library in ("torch", "safetensors", "numba"):
        pytest.importorskip(library, reason="the plain model runs in torch")
    from artifacts import TINY_FRAMES

    from kyn_models.models import seeded

    folder = tmp_path_factory.mktemp("posed") / "model"
    return seeded.write_seeded_frames(folder, seeded.seeded_frames(TINY_FRAMES), width=128, height=64).path


def picture(number: int) -> np.ndarray:
    """Patches of many colours that move from image to image."""
    patches = np.random.default_rng(5).integers(0, 255, (12, 48, 3), dtype=np.uint8)
    return np.roll(np.kron(patches, np.ones((8, 8, 1), np.uint8)), 3 * number, axis=1)[:94, :352]


def offline(model: Path, numbers: tuple[int, ...]) -> Any:
    """The prediction for a key frame and its neighbours, a metre apart along x of the vehicle."""
    mount = pose_from_numbers(MOUNT)
    frames = []
    for number in numbers:
        pose = mount.copy()
        pose[0, 3] += number
        frames.append(PosedFrame(picture(number), CAMERA, number * 100 * MS, pose))
    spec = GridParameters(resolution_m=0.5, z_m=(-0.5, 3.0)).spec()
    predictor = make_predictor(Artifact.load(model), PredictorOptions("torch", spec))
    return predictor.predict(Observation(tuple(frames), mount), {"depth", "grid"})


def test_the_node_answers_as_the_predictor_does_offline(ros: Any, posed_model: Path) -> None:
    parameters = {
        "model": str(posed_model),
        "camera_pose": MOUNT,
        **SMALL_GRID,
        "pose_source": "pose",
        "runtime": "torch",
    }
    one = Bench(ros, parameters | {"qos.poses.reliability": "reliable"})
    poses = one.peer.create_publisher(PoseStamped, "pose", 5)
    assert one.ros.spin_until(poses.get_subscription_count)
    depths = one.listen(Image, "depth/image_rect")
    for number in range(3):
        header = Header(stamp=convert.time_message(1_000 * MS + number * 100 * MS), frame_id="map")
        pose = Pose(position=Point(x=float(number)), orientation=Quaternion(w=1.0))
        poses.publish(PoseStamped(header=header, pose=pose))
        image = convert.image_message(Header(stamp=header.stamp, frame_id=FRAME), picture(number))
        one.send(image, info_of(1_000 * MS + number * 100 * MS))
        assert one.ros.spin_until(lambda number=number: len(depths) == number + 1, 60.0), one.drops()
    for number, asked in ((0, (0,)), (1, (1, 0)), (2, (2, 1, 0))):
        expected = offline(posed_model, asked)
        assert expected.frames_used == len(asked)
        said = np.frombuffer(depths[number].data, np.float32).reshape(expected.depth_m.shape)
        np.testing.assert_allclose(said, expected.depth_m, rtol=1e-4, atol=1e-4)
        assert len(np.unique(said)) > 100
        np.testing.assert_array_equal(np.array(one.grids[number].data, np.int8).reshape(40, 100), expected.grid)
    status = one.wait_for_status("frames", DiagnosticStatus.OK, "neighbours are used")
    assert values_of(status)["answered with 2 neighbours"] == "1"
    assert values_of(one.ask_status("model"))["family"] == "dymultidepth"
    assert one.node.finish()
