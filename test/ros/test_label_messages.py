"""Class labels through the node: in the volume message, on voxels and obstacles. rclpy is real, labels are given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import SECOND, image_of, info_of
from rclpy.serialization import serialize_message
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from kyn_models.artifact import Artifact
from kyn_models.palette import class_colour
from kyn_models.predictor import Predictor
from kyn_models.types import Prediction, VoxelGridSpec
from kyn_ros import convert, demo_report

NAMES = ("road", "car", "vegetation")


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prediction calls what is left of the vehicle vegetation, the rest car."""
    predict = Predictor.predict

    def with_labels(self: Predictor, *args: Any, **kwargs: Any) -> Prediction:
        prediction = predict(self, *args, **kwargs)
        labels = np.where(prediction.spec.centres()[..., 1] > 0, 2, 1).astype(np.uint8)
        return dataclasses.replace(prediction, labels=labels, label_names=NAMES)

    monkeypatch.setattr(Predictor, "predict", with_labels)


def test_labels_are_published_and_colour_the_clouds(bench, labelled) -> None:
    message = pytest.importorskip("kyn.msg", reason="the messages of kyn are not built for this Python").OccupancyVolume
    one = bench()
    volumes = one.listen(message, "occupancy_volume")
    clouds = {topic: one.listen(PointCloud2, topic) for topic in ("occupied_voxels", "obstacle_points")}
    one.ask(grey=128, stamp_ns=3 * SECOND)
    assert one.ros.spin_until(lambda: volumes and all(clouds.values()))
    volume = volumes[0]
    assert tuple(volume.label_names) == NAMES and len(volume.labels) == len(volume.data)
    labels = np.frombuffer(volume.labels, np.uint8).reshape(volume.size_z, volume.size_y, volume.size_x)
    assert (labels[:, :20] == 1).all() and (labels[:, 20:] == 2).all()
    for topic, (cloud,) in clouds.items():
        points = np.frombuffer(cloud.data, np.dtype([("xyz", "<f4", 3), ("bgr", "u1", 3), ("", "u1")]))
        left = points["xyz"][:, 1] > 0
        assert left.any() and (~left).any(), topic
        for side, name in ((left, "vegetation"), (~left, "car")):
            assert (points["bgr"][side] == class_colour(name)[::-1]).all(), topic


@pytest.mark.parametrize("names", [NAMES, ()], ids=["labels", "no labels"])
def test_the_demos_pictures_have_the_classes_that_were_received(model: Path, names: tuple[str, ...]) -> None:
    kyn = pytest.importorskip("kyn.msg", reason="the messages of kyn are not built for this Python")
    spec, header = VoxelGridSpec((0, 4), (-2, 2), (0, 1), 0.5), Header(stamp=convert.time_message(SECOND))
    volume = np.full(spec.shape, 200, np.uint8)
    labels = np.arange(volume.size, dtype=np.uint8).reshape(spec.shape) % 3 if names else None
    sent = {
        "image": image_of(90, SECOND),
        "camera_info": info_of(SECOND),
        "depth/image_rect": convert.image_message(header, np.full((192, 640), 9, np.float32)),
        "occupancy_grid": convert.grid_message(header, np.zeros(spec.shape[1:], np.int8), spec),
        "occupancy_volume": convert.volume_message(kyn.OccupancyVolume, header, volume, spec, labels, names),
    }
    messages = {topic: {SECOND: serialize_message(message)} for topic, message in sent.items()}
    received, _ = demo_report._prediction(messages, SECOND, Artifact.load(model), np.eye(4))
    assert received.label_names == names and received.spec == spec
    np.testing.assert_array_equal(received.volume, volume)
    np.testing.assert_array_equal(received.labels, labels)
