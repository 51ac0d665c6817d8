"""The node with a model of Know Your Neighbors: unchanged, with a label per cell. rclpy is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import SECOND
from tiny_model import LABELS, wall_depth_m, write_tiny_kyn


@pytest.fixture(scope="module")
def tiny_kyn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="the tiny model's encoder is written with onnx")
    return write_tiny_kyn(tmp_path_factory.mktemp("kyn") / "tiny").path


def test_walls_and_labels_are_published(bench, tiny_kyn: Path) -> None:
    message = pytest.importorskip("kyn.msg", reason="the messages of kyn are not built for this Python").OccupancyVolume
    one = bench(model=str(tiny_kyn))
    volumes = one.listen(message, "occupancy_volume")
    grid = one.ask(grey=128, stamp_ns=3 * SECOND)
    cells = np.array(grid.data, dtype=np.int8).reshape(40, 100)
    wall = int(wall_depth_m(128) / 0.5)
    assert (cells[18:22, wall + 2 : wall + 8] == 100).all() and (cells[18:22, 12 : wall - 1] == 0).all()
    assert one.ros.spin_until(lambda: volumes)
    volume = volumes[0]
    assert tuple(volume.label_names) == LABELS
    shape = (volume.size_z, volume.size_y, volume.size_x)
    labels, values = (np.frombuffer(part, np.uint8).reshape(shape) for part in (volume.labels, volume.data))
    assert np.array_equal(labels == 255, values == 255)
    # The middle of the image looks 4 cm to the right per metre.
    left, right = labels[:, 21:], labels[:, :15]
    assert set(np.unique(left)) == {1, 255} and set(np.unique(right)) == {2, 255}
