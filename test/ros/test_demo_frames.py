"""The demo with a model of several frames, on a KITTI odometry sequence: poses, neighbours, fused grid, pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mcap_ros2", reason="the recording is read with the package mcap-ros2-support")

from recorded_demo import recorded, run_demo

from kyn_models.artifact import Artifact
from kyn_models.data.drives import open_drive
from kyn_models.views import FREE_COLOUR, OCCUPIED_COLOUR, READABLE_WIDTH, UNKNOWN_COLOUR, VEHICLE_COLOUR


@pytest.fixture(scope="module")
def demo(shared_data: Path, tiny_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model whose training camera looked further down than that of the sequence, and saw more to all sides."""
    folder = tmp_path_factory.mktemp("demo")
    manifest = shutil.copytree(tiny_frames, folder / "model") / "artifact.json"
    content = json.loads(manifest.read_text())
    content["camera"]["pitch_deg"] = 15.0
    content["camera"]["source"] |= {"fx": 550.0, "fy": 550.0}
    manifest.write_text(json.dumps(content))
    return run_demo(folder / "out", "--data", shared_data / "kitti_odometry", "--model", folder / "model")


def test_every_image_is_answered_and_the_last_ones_with_neighbours(demo: Path) -> None:
    found: dict[str, list] = {}
    for topic, message in recorded(demo):
        found.setdefault(topic, []).append(message)
    for topic in ("image", "odom", "occupancy_grid", "occupancy_grid_fused", "depth/image_rect", "points"):
        assert len(found[topic]) == 4, topic
    assert {message.header.frame_id for message in found["occupancy_grid_fused"]} == {"odom"}
    statuses = [status for message in found["diagnostics"] for status in message.status]
    counts = [
        {pair.key: pair.value for pair in status.values} for status in statuses if status.name.endswith(": frames")
    ]
    # Frames 0 and 168 stand alone, 17 s apart; 169 has one neighbour, 170 two.
    assert counts[-1]["mode"].startswith("past")
    assert counts[-1]["alone: first frame"] == "2" and counts[-1]["answered with 1 neighbours"] == "1"


def test_what_the_node_warned_of_at_its_end_is_in_the_summary(demo: Path) -> None:
    statuses = [status for topic, message in recorded(demo) if topic == "diagnostics" for status in message.status]
    last = {status.name: status for status in statuses}
    expected = {f"{name.split(': ')[-1]}: {one.message}" for name, one in last.items() if one.level in (1, b"\x01")}
    warnings = json.loads((demo / "summary.json").read_text())["warnings"]
    assert len(warnings) == len(set(warnings)) and set(warnings) == expected
    (mount,) = [warning for warning in warnings if warning.startswith("mount: ")]
    assert "degrees off the mount the model was trained with" in mount
    printed = (demo / "printed.txt").read_text()
    assert f"the node warns: {mount}\n" in printed
    assert "\n  answered 4 of 4 frames\n" in printed and "\r  answered" not in printed


def test_what_the_camera_did_not_see_is_grey_in_the_pictures(demo: Path, shared_data: Path) -> None:
    source = open_drive(shared_data / "kitti_odometry", "07").posed_frame(0).intrinsics
    seen = Artifact.load(demo.parent / "model").camera.seen(source)
    unseen = np.flatnonzero(~seen.any(axis=1))
    times = -(-READABLE_WIDTH // seen.shape[1])
    picture = cv2.imread(str(demo / "frames/000000.png"))[24:, : seen.shape[1] * times, ::-1]
    grey = (picture == UNKNOWN_COLOUR).all(-1)
    assert len(unseen) and grey[times * unseen[-1], :].mean() > 0.95
    assert grey[times * np.flatnonzero(seen.any(axis=1))[3]].mean() < 0.7


def test_pictures_show_the_fused_grid(demo: Path) -> None:
    """Every patch of 5x5 equal cells has their colour, except under the vehicle, its way and the scale."""
    pictures = [cv2.imread(str(path))[..., ::-1] for path in sorted((demo / "frames").glob("*.png"))]
    assert len(pictures) == 4 and json.loads((demo / "summary.json").read_text())["video_frames"] == 4
    maps = [message for topic, message in recorded(demo) if topic.endswith("occupancy_grid_fused")]
    for picture, message in zip(pictures, maps, strict=True):
        side = min(picture.shape[0] - 24, 560)
        panel = picture[24 : 24 + side, -side:]
        vehicle = panel[side // 2 - 5 : side // 2 + 5, side // 2 - 5 : side // 2 + 5]
        assert (np.abs(vehicle.astype(int) - VEHICLE_COLOUR).sum(axis=-1) < 30).sum() > 20
        cells = np.array(message.data, np.int8).reshape(message.info.height, message.info.width).T[::-1, ::-1]
        shown = {-1: UNKNOWN_COLOUR, 0: FREE_COLOUR, 100: OCCUPIED_COLOUR}
        away = np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]) > 0.06
        away[-60:, :120] = False
        for value, colour in shown.items():
            alike = cv2.erode((cells == value).astype(np.uint8), np.ones((5, 5), np.uint8))
            here = (cv2.resize(alike, (side, side), interpolation=cv2.INTER_NEAREST) > 0) & away
            right = np.abs(panel[here].astype(int) - colour).sum(axis=-1) < 30
            assert len(right) == 0 or right.mean() > 0.98, f"{value}: {right.mean():.3f} of {len(right)}"
    assert len(np.unique(cells)) > 1, "of no use without something seen"


def test_the_viewer_gets_the_fused_grid_of_every_frame(
    demo: Path, shared_data: Path, tiny_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rerun", reason="the browser viewer needs rerun-sdk")
    from kyn_models.data.kitti_odometry_drive import OdometryDrive
    from kyn_ros import demo_report, rerun_view

    shown: list = []
    monkeypatch.setattr(rerun_view, "show", lambda predictions, out, maps: shown.append((predictions, maps)))
    mount = OdometryDrive(shared_data / "kitti_odometry").base_from_camera()
    demo_report.draw(demo / "recording", tmp_path, Artifact.load(tiny_frames), mount, {}, view=True)
    ((predictions, maps),) = shown
    assert [prediction.stamp_ns for prediction in predictions] == sorted(maps) and len(maps) == 4
    for picture in maps.values():
        assert picture.shape == (560, 560, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 3
