"""``kyn eval multiframe`` with a small model: on real frames, on streets, and what it refuses."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from kyn_models import cli


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="making an artifact needs the train extra")
    from kyn_models.models.dymultidepth import DyMultiDepthConfig
    from kyn_models.models.seeded import seeded_frames, write_seeded_frames

    config = DyMultiDepthConfig(depth_steps=8)
    return write_seeded_frames(tmp_path_factory.mktemp("frames") / "tiny", seeded_frames(config), False, 128, 64).path


def test_streets_have_a_right_image(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    assert evaluate(model, "--layout", "streets", "--frames", "1", "--stereo", "--csv", str(path)) == 0
    assert {row["neighbours"] for row in rows_of(path).values()} == {"3"}


@pytest.fixture
def odometry(shared_data: Path, tmp_path: Path) -> Path:
    """The real frames with a mask of a moving object for frame 169."""
    folder = shutil.copytree(shared_data / "kitti_odometry", tmp_path / "odometry", copy_function=shutil.copyfile)
    mask = np.zeros((256, 512), dtype=np.float32)
    mask[128:, 200:300] = 1
    (folder / "sequences" / "07" / "mvobj_mask").mkdir()
    np.save(folder / "sequences" / "07" / "mvobj_mask" / "000169.npy", mask)
    return Path(folder)


def evaluate(model: Path, *more: str) -> int:
    return cli.main(["eval", "multiframe", "--model", str(model), "--runtime", "torch", *more])


def rows_of(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with path.open() as file:
        return {(row["frame"], row["answer"], row["area"]): row for row in csv.DictReader(file)}


def test_real_frames_give_a_table_and_rows(
    model: Path, odometry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(model, "--data", str(odometry), "--csv", str(tmp_path / "scores.csv")) == 0
    out = capsys.readouterr().out
    assert "1 frame, 1 of them with a mask" in out and "left out: 2 frames that lack a neighbour" in out
    for label in ("fused, all", "fused, static", "mono, moving", "matched, all", "fused where matched, moving"):
        assert f"\n{label} " in out
    rows = rows_of(tmp_path / "scores.csv")
    assert len(rows) == 12
    pixels = {area: int(rows["07_0000000169", "fused", area]["pixels"]) for area in ("all", "static", "moving")}
    assert pixels["static"] + pixels["moving"] == pixels["all"] and pixels["moving"] > 20
    matched = rows["07_0000000169", "matched", "all"]
    assert 0 < int(matched["pixels"]) <= pixels["all"] and matched["capped"] == "0"
    # Weights that were never trained know nothing; the planes of real poses and images do.
    assert float(matched["abs_rel"]) < 0.6 * float(rows["07_0000000169", "fused where matched", "all"]["abs_rel"])


def test_a_part_of_the_image_other_distances_and_scales(
    model: Path, odometry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {}
    for name, options in {
        "plain": (),
        "part": ("--roi", "32", "64", "0", "64"),
        "near": ("--far", "20"),
        "scaled": ("--median-scaling",),
    }.items():
        path = tmp_path / f"{name}.csv"
        assert evaluate(model, "--data", str(odometry), "--csv", str(path), *options) == 0
        rows[name] = rows_of(path)["07_0000000169", "fused", "all"]
    out = capsys.readouterr().out
    for words in (
        "up to 80 m, the whole crop, no scaling",
        "rows 32..64 and columns 0..64",
        "up to 20 m",
        "by medians",
    ):
        assert words in out
    pixels = {name: int(row["pixels"]) for name, row in rows.items()}
    assert 0 < pixels["part"] < pixels["near"] < pixels["plain"] == pixels["scaled"]
    assert float(rows["scaled"]["abs_rel"]) < float(rows["plain"]["abs_rel"])


def test_stereo_partner_is_a_neighbour_and_no_mask_gives_no_rows(
    model: Path, odometry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.csv"
    options = ("--offsets", "-1", "--stereo", "--poses", "kitti", "--start", "170", "--csv", str(path))
    assert evaluate(model, "--data", str(odometry), *options) == 0
    assert ", all " in (out := capsys.readouterr().out) and ", moving " not in out
    rows = rows_of(path)
    assert {frame for frame, _, _ in rows} == {"07_0000000170"}
    row = rows["07_0000000170", "fused", "moving"]
    assert (row["neighbours"], row["mask"], row["pixels"], row["abs_rel"]) == ("2", "0", "0", "nan")


def test_held_out_streets_have_masks_and_the_models_camera(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(model, "--layout", "streets", "--frames", "2", "--seed", "910003") == 0
    out = capsys.readouterr().out
    assert "2 frames, 2 of them with a mask" in out and "left out" not in out


def test_another_camera_is_noted(model: Path, odometry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibration = odometry / "sequences" / "07" / "calib.txt"
    calibration.write_text(calibration.read_text().replace("7.070912000000e+02", "5.070912000000e+02"))
    assert evaluate(model, "--data", str(odometry)) == 0
    out = capsys.readouterr().out
    assert re.search(r"note: the model was trained with the camera 128x64 pixels, fx [0-9.]+, fy .*; these images", out)
    assert "Intrinsics(" not in out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "--data: got none"),
        (("--layout", "streets", "--poses", "dvso"), "--poses: got dvso, which streets does not use"),
        (("--layout", "streets", "--frames", "0"), "--frames: got 0"),
        (("--data", "ODOMETRY", "--seed", "3"), "--seed: got 3, which kitti_odometry does not use"),
        (("--data", "ODOMETRY", "--sequences", "04"), "got no sequence 04"),
        (("--data", "ODOMETRY", "--start", "171"), "none from --start to --stop"),
        (("--data", "ODOMETRY", "--index-mask", "val"), "val.json: missing"),
        (("--data", "ODOMETRY", "--far", "-1"), "far: got -1"),
        (("--data", "ODOMETRY", "--roi", "9", "3", "0", "5"), "roi: got top 9, bottom 3"),
        (
            ("--data", "ODOMETRY", "--roi", "0", "65", "0", "5"),
            "roi: got bottom 65, right 5, expected at most 64 and 128",
        ),
        (("--data", "nowhere"), "got none of the sequences 00, 04, 05, 07"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    model: Path, odometry: Path, more: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(model, *(str(odometry) if word == "ODOMETRY" else word for word in more)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_models_of_one_image_are_refused(tiny_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tiny_artifact, "--layout", "streets") == 2
    assert "got a model of family 'bts', expected dymultidepth" in capsys.readouterr().err
