"""``kyn prepare kitti-odometry``: which file goes where, going on, damaged and missing files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kyn_models import cli
from kyn_models.data.kitti_odometry import read_annotated_depth
from kyn_models.data.kitti_odometry_prepare import DRIVES, plan, prepare


def put_depth(root: Path, drive: str, part: str, frames: range) -> Path:
    folder = root / part / f"{drive}_sync" / "proj_depth" / "groundtruth" / "image_02"
    folder.mkdir(parents=True)
    for frame in frames:
        cv2.imwrite(str(folder / f"{frame:010d}.png"), np.full((2, 3), 256 + frame, dtype=np.uint16))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Depth of drives 04 (5 to 265 of 0 to 270) and 08 (from 1100), and empty sequences 04 and 08."""
    depth, data = tmp_path / "depth", tmp_path / "odometry"
    put_depth(depth, "2011_09_30_drive_0016", "val", range(5, 266))
    put_depth(depth, "2011_09_30_drive_0028", "train", range(1095, 1110))
    for name in ("04", "08"):
        (data / "sequences" / name).mkdir(parents=True)
        (data / "sequences" / name / "calib.txt").write_text("")
    return depth, data


def command(depth: Path, data: Path, *more: str) -> int:
    return cli.main(["prepare", "kitti-odometry", "--data", str(data), "--depth", str(depth), "--workers", "1", *more])


def test_files_get_the_numbers_of_the_sequence(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    depth, data = folders
    assert command(depth, data) == 0
    said = capsys.readouterr()
    assert "271 depth images (04: 261, 08: 10)" in said.out and "271 files made" in said.out
    assert "sequence 08" in said.err and "lacks 4056 files, the first 0000001110.png" in said.err
    assert "sequence 04" not in said.err
    made = data / "sequences" / "08" / "image_depth_annotated"
    assert sorted(path.name for path in made.iterdir()) == [f"{frame:06d}.png" for frame in range(10)]
    np.testing.assert_allclose(read_annotated_depth(made / "000003.png"), 1 + 1103 / 256)
    assert (data / "sequences" / "04" / "image_depth_annotated" / "000265.png").is_file()
    assert command(depth, data) == 0
    assert "0 files made" in capsys.readouterr().out


def test_damaged_files_are_named_and_made_later(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    depth, data = folders
    path = next(depth.glob("val/*/proj_depth/groundtruth/image_02/0000000007.png"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert command(depth, data, "--sequences", "04", "--strict") == 2
    assert "0000000007.png: got a file that is no whole PNG" in capsys.readouterr().err
    assert command(depth, data, "--sequences", "04") == 0
    assert "1 could not be read" in capsys.readouterr().out
    cv2.imwrite(str(path), np.zeros((2, 3, 3), dtype=np.uint8))
    assert command(depth, data, "--sequences", "04") == 0
    assert "0000000007.png: got no 16-bit grey image" in capsys.readouterr().err
    path.write_bytes(whole)
    assert command(depth, data, "--sequences", "04", "--strict") == 0
    assert "1 files made" in capsys.readouterr().out
    assert not list(data.rglob("*.part"))


def test_links_share_the_file_and_survive_a_left_over_part(folders: tuple[Path, Path]) -> None:
    depth, data = folders
    work = plan(depth, data, ["08"])
    target = work.shots[0].target
    target.parent.mkdir()
    target.with_name(target.name + ".part").write_bytes(b"half")
    assert prepare(work, 1, link=True).written == 10
    assert target.samefile(work.shots[0].source) and not list(data.rglob("*.part"))


def test_several_processes_make_the_same(folders: tuple[Path, Path]) -> None:
    depth, data = folders
    assert prepare(plan(depth, data, ["08"]), 2).written == 10


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--strict",), "sequence 08"),
        (("--sequences", "05"), "got no sequence 05"),
        (("--sequences", "11"), "got no sequence 11"),
        (("--workers", "0"), "--workers: got 0"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    folders: tuple[Path, Path], more: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*folders, *more) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_folders_without_depth_or_drive_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    depth, data = folders
    with pytest.raises(FileNotFoundError, match=r"expected \{train,val\}"):
        plan(tmp_path / "nowhere", data)
    (data / "sequences" / "03").mkdir()
    (data / "sequences" / "03" / "calib.txt").write_text("")
    assert any("2011_09_26_drive_0067_sync has no depth" in lack for lack in plan(depth, data).lacks)
    with pytest.raises(FileNotFoundError, match="drive_0067_sync has no depth"):
        plan(depth, data, ["03"])


def test_sequences_are_those_of_the_development_kit() -> None:
    assert {name: last - first + 1 for name, (_, first, last) in DRIVES.items()} == {
        "00": 4541, "01": 1101, "02": 4661, "03": 801, "04": 271, "05": 2761,
        "06": 1101, "07": 1101, "08": 4071, "09": 1591, "10": 1201,
    }  # fmt: skip
