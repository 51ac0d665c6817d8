"""RealEstate10K: cameras, poses, which frames are views of which, split lines, what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_realestate import SHARES, STEP, image, stamps, write_cameras, write_prepared

from kyn_models.data.realestate10k import RealEstate10k, RealEstate10kFolder, read_pairs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_prepared(tmp_path / "re10k", "0a1b", count=6)
    return write_prepared(tmp_path / "re10k", "ffee", count=3, first=10)


def forward(sample) -> list[int]:
    """How many frames each view is ahead of the key frame, by its pose."""
    key = np.linalg.inv(sample.observation.key.world_from_camera)
    return [round(float((key @ view.world_from_camera)[2, 3]) / STEP) for view in sample.views]


def test_a_sample_has_the_files_camera_and_pose(root: Path) -> None:
    data = RealEstate10k(root, views=(2,))
    assert len(data) == 4 + 1 and data.items[-1] == ("ffee", 0)
    sample = data[1]
    key = sample.observation.key
    assert sample.name == "0a1b_0000000001" and sample.depth_m is None
    assert key.stamp_ns == stamps(6)[1] * 1000
    np.testing.assert_allclose(key.image, image(4), atol=3)
    np.testing.assert_allclose(sample.views[0].image, image(6), atol=3)
    # As published: 2 f and 2 c - 1 of the shares, whatever the size.
    expected = [[2 * SHARES[0], 0, 2 * SHARES[2] - 1], [0, 2 * SHARES[1], 2 * SHARES[3] - 1], [0, 0, 1]]
    np.testing.assert_allclose(key.intrinsics.normalised(), expected)
    np.testing.assert_allclose(data.folder.intrinsics("0a1b").normalised(), expected)
    # The file says camera_from_world; the camera moves along its axis.
    np.testing.assert_allclose(key.world_from_camera[:3, 3], (0, 0, STEP))
    assert forward(sample) == [2]
    np.testing.assert_allclose(sample.observation.base_from_camera[:3, :3] @ (0, 0, 1), (1, 0, 0))


def test_split_lines_have_fixed_targets_that_end_with_the_sequence(root: Path, tmp_path: Path) -> None:
    split = tmp_path / "test_files.txt"
    split.write_text("ffee 1\n0a1b 4\n0a1b 0\n")
    data = RealEstate10k(root, split, views=(-1, 1, 3))
    assert data.items == (("ffee", 1), ("0a1b", 4), ("0a1b", 0))
    assert [forward(data[index]) for index in range(3)] == [[-1, 1, 1], [-1, 1, 1], [0, 1, 3]]


def test_missing_images_are_counted_by_line_or_an_error(root: Path, tmp_path: Path) -> None:
    folder = RealEstate10kFolder(root)
    folder.image_path("0a1b", 3).unlink()
    split = tmp_path / "split.txt"
    split.write_text("0a1b 3\n0a1b 2\n0a1b 5\n0000 1\n0a1b 99\n")
    data = RealEstate10k(root, split, views=(1,))
    assert data.items == (("0a1b", 5),) and len(data.missing) == 4
    assert data.missing[0].endswith("line 1: names frame 3 of 0a1b, whose image is missing")
    assert "of whose views an image" in data.missing[1]
    with pytest.raises(FileNotFoundError, match="line 1: names frame 3"):
        RealEstate10k(root, split, views=(1,), strict=True)
    assert len(RealEstate10k(root, views=(1,))) == 3 + 2
    split.write_text("0000 1\n")
    with pytest.raises(FileNotFoundError, match="none of the 1 lines is whole here"):
        RealEstate10k(root, split)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "got no address"),
        ("https://x.y/watch?v=1\n", "got no frame"),
        ("https://x.y/watch?v=1\n100 1 1 0.5 0.5\n", "line 2: got .*expected 19"),
        ("https://x.y/watch?v=1\n100" + " nan" * 18, "line 2: got .*expected 19 finite"),
    ],
)
def test_wrong_camera_files_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    write_cameras(tmp_path / "cameras", "0a1b").write_text(text)
    with pytest.raises(ValueError, match=rf"0a1b\.txt.*{sentence}"):
        RealEstate10kFolder(tmp_path).posed_frames("0a1b")


def test_what_is_wrong_is_said_by_name(tmp_path: Path, root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cameras: missing or empty"):
        RealEstate10k(tmp_path)
    split = tmp_path / "split.txt"
    split.write_text("0a1b 1 l\n")
    with pytest.raises(ValueError, match=r"split\.txt, line 1"):
        read_pairs(split)
    turned = (root / "cameras" / "ffee.txt").read_text().replace(" 1 0 0 0 0 1 0 0 ", " 2 0 0 0 0 1 0 0 ")
    (root / "cameras" / "ffee.txt").write_text(turned)
    with pytest.raises(ValueError, match=r"ffee\.txt, frame 0: world_from_camera"):
        RealEstate10k(root, views=())[6]


def test_published_lists_are_read(shared_data: Path) -> None:
    lines = read_pairs(shared_data.parent / "splits" / "realestate10k" / "test_files.txt")
    assert len(lines) == 3270 and (lines[0].drive, lines[0].frame) == ("249fd0890d439aa9", 141)
