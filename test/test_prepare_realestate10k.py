"""kyn prepare realestate10k: frames at the right times of real video files, what fails, going on, downloading."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("av", reason="reading videos needs the video extra")

from tiny_realestate import ID, RATE_HZ, image, stamps, write_cameras

from kyn_models.cli import main
from kyn_models.data.realestate10k import RealEstate10k
from kyn_models.data.realestate10k_prepare import frames_at, video_id
from kyn_models.video import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_video(path, (image(number) for number in range(20)), RATE_HZ)
    return path


@pytest.fixture
def places(tmp_path: Path, video: Path) -> dict[str, Path]:
    """Two sequences of one video that is there."""
    cameras, videos = tmp_path / "cameras" / "train", tmp_path / "videos"
    write_cameras(cameras, "0a1b", count=6)
    write_cameras(cameras, "ffee", count=3, first=10)
    videos.mkdir()
    (videos / f"{ID}.mp4").write_bytes(video.read_bytes())
    return {"cameras": tmp_path / "cameras", "videos": videos, "out": tmp_path / "out"}


def prepare(places: dict[str, Path], *words: str) -> int:
    folders = [word for name, path in places.items() for word in (f"--{name}", str(path))]
    return main(["prepare", "realestate10k", *folders, "--size", "32x18", "--workers", "1", *words])


def number_of(picture: np.ndarray) -> int:
    """Which video frame it is, by its colour."""
    return round(float(picture[..., 0].mean()) / 10)


def test_frames_come_at_the_times_of_the_camera_file(places, capsys) -> None:
    assert prepare(places) == 0
    assert "1 videos of 2 sequences" in (said := capsys.readouterr().out) and "0 failed" in said
    for sequence, count, first in (("0a1b", 6, 3), ("ffee", 3, 10)):
        folder = places["out"] / "frames" / sequence
        assert sorted(int(path.stem) for path in folder.iterdir()) == stamps(count, first)
        for number, stamp in enumerate(stamps(count, first), start=first):
            picture = cv2.imread(str(folder / f"{stamp}.jpg"))[..., ::-1]
            assert picture.shape == (18, 32, 3) and number_of(picture) == number
    sample = RealEstate10k(places["out"], views=(2,))[0]
    assert number_of(sample.observation.key.image) == 3 and number_of(sample.views[0].image) == 5


def test_the_nearest_frame_counts_and_times_beyond_the_video_are_an_error(video: Path) -> None:
    asked = [40_000, 60_000, 1_149_000, 1_151_000, 1_990_000]
    assert [number_of(picture) for _, picture in frames_at(video, asked)] == [0, 1, 11, 12, 19]
    with pytest.raises(ValueError, match=r"no frame at 2\.500 s"):
        list(frames_at(video, [1_500_000, 2_500_000]))


def test_the_same_command_goes_on(places, capsys) -> None:
    assert prepare(places) == 0
    kept = places["out"] / "frames" / "0a1b" / f"{stamps(6)[0]}.jpg"
    before = kept.stat().st_mtime_ns
    lost = places["out"] / "frames" / "0a1b" / f"{stamps(6)[4]}.jpg"
    lost.unlink()
    (places["out"] / "cameras" / "0a1b.txt").unlink()
    capsys.readouterr()
    assert prepare(places) == 0
    assert "1 videos taken apart" in capsys.readouterr().out
    assert lost.is_file() and kept.stat().st_mtime_ns == before
    assert prepare(places) == 0
    assert "1 were done already" in capsys.readouterr().out


def test_failed_videos_are_listed_and_counted_and_not_fatal(places, capsys) -> None:
    write_cameras(places["cameras"], "1111", url="https://youtu.be/gone")
    write_cameras(places["cameras"], "2222", url="https://www.youtube.com/watch?v=damaged&t=3")
    write_cameras(places["cameras"], "3333", first=18, url="https://www.youtube.com/watch?v=short")
    (places["videos"] / "damaged.mp4").write_bytes(b"no video")
    (places["videos"] / "short.mp4").write_bytes((places["videos"] / f"{ID}.mp4").read_bytes())
    assert prepare(places) == 0
    said = capsys.readouterr()
    assert "1 videos taken apart" in said.out and "3 failed" in said.out and said.err.count("(left out)") == 3
    lines = (places["out"] / "failed.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in lines] == ["damaged", "gone", "short"]
    assert "is missing" in lines[1] and "no frame at" in lines[2]
    assert sorted(path.stem for path in (places["out"] / "cameras").iterdir()) == ["0a1b", "ffee"]
    assert RealEstate10k(places["out"], views=()).items[-1] == ("ffee", 2)


def test_a_bad_sequence_does_not_keep_the_others_of_its_video(places, capsys) -> None:
    write_cameras(places["cameras"] / "train", "0000", first=18)
    assert prepare(places) == 0
    assert "1 failed" in capsys.readouterr().out
    assert sorted(path.stem for path in (places["out"] / "cameras").iterdir()) == ["0a1b", "ffee"]


@pytest.fixture
def program(tmp_path: Path, video: Path, monkeypatch) -> Path:
    """A program called yt-dlp that has one video, and a list of what it was asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "yt-dlp"
    path.write_text(
        "#!/bin/sh\n"
        f'for last; do :; done\necho "$last" >> {tmp_path}/asked\n'
        f'case "$last" in *v={ID}) cp {video} {tmp_path}/videos/{ID}.mp4;;\n'
        "*) echo 'WARNING: x' >&2; echo 'ERROR: Video unavailable' >&2; exit 1;; esac\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "asked"


def test_videos_are_downloaded_once_and_what_is_gone_is_not_asked_for_again(places, program: Path, capsys) -> None:
    write_cameras(places["cameras"], "1111", url="https://www.youtube.com/watch?v=gone")
    (places["videos"] / f"{ID}.mp4").unlink()
    assert prepare(places, "--download", "--discard-videos") == 0
    assert "1 videos taken apart" in capsys.readouterr().out and not list(places["videos"].iterdir())
    failed = (places["out"] / "failed.txt").read_text()
    assert failed == "gone: could not be downloaded (ERROR: Video unavailable)\n"
    asked = program.read_text().splitlines()
    assert sorted(asked) == [f"https://www.youtube.com/watch?v={name}" for name in sorted((ID, "gone"))]
    assert prepare(places, "--download") == 0
    assert program.read_text().splitlines() == asked
    assert "could not be downloaded" in (places["out"] / "failed.txt").read_text()
    assert prepare(places, "--download", "--retry") == 0
    assert len(program.read_text().splitlines()) == 3


def test_a_missing_program_and_other_mistakes_are_one_sentence(places, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prepare(places, "--download") == 2
    said = capsys.readouterr().err
    assert "yt-dlp is not installed here" in said and said.count("\n") == 1 and not places["out"].exists()
    assert prepare(places | {"cameras": tmp_path / "none"}) == 2
    assert "got no camera file" in capsys.readouterr().err
    write_cameras(places["cameras"], "1111", url="--exec=rm")
    assert prepare(places) == 2
    assert "1111.txt, line 1: got '--exec=rm', expected the address of a video" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected the address"):
        video_id("https://www.youtube.com/watch?v=../../x", Path("a.txt"))
    assert video_id("https://youtu.be/-a_B?t=1", Path("a.txt")) == "-a_B"
