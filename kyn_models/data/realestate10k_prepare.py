"""Frames of RealEstate10K from its videos: found or downloaded, decoded at the times that the camera files name.

A sequence is whole once its camera file lies in ``<out>/cameras``: it is written last. What is not whole is made by the
next run. Videos that are gone, too short or damaged are named in ``<out>/failed.txt`` and the others go on.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import cv2

from kyn_models.data.prepare_pool import Made, make_all, require_size
from kyn_models.data.realestate10k import CameraFile
from kyn_models.types import UInt8Array
from kyn_models.whole_files import copy_file, put, write_image

ENDINGS = (".mp4", ".webm", ".mkv")
DOWNLOADER = "yt-dlp"
FORMAT = "bestvideo[height<=360]/best[height<=360]"
"""Video of 360 rows, as published."""
DOWNLOAD_LIMIT_S = 3600
NOT_DOWNLOADED = "could not be downloaded"
FAILED = "failed.txt"


@dataclass(frozen=True)
class Recipe:
    """out: folder to write. videos: folder of video files, ``<id>.mp4``. size: (rows, columns) of the frames. download:
    fetch videos that are not there. keep: leave what was downloaded."""

    out: Path
    videos: Path
    size: tuple[int, int] = (256, 384)
    download: bool = False
    keep: bool = True


@dataclass(frozen=True)
class Video:
    """One video and the camera files of its sequences. again: False where an earlier download failed for good."""

    id: str
    sequences: tuple[Path, ...]
    again: bool = True


def plan(cameras: Path, recipe: Recipe, retry: bool = False) -> list[Video]:
    """The videos that the camera files below a folder name. Writes nothing.

    retry: download again what an earlier run could not. Raises ``FileNotFoundError`` or ``ValueError`` naming what is
    missing or wrong, also a missing download program where one is needed.
    """
    files = sorted(cameras.rglob("*.txt")) if cameras.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{cameras}: got no camera file, expected <sequence>.txt of RealEstate10K, unpacked")
    require_size(recipe.size)
    if recipe.download and shutil.which(DOWNLOADER) is None:
        raise FileNotFoundError(
            f"--download: the program {DOWNLOADER} is not installed here, expected it to fetch videos; "
            f"pip install {DOWNLOADER}, or put the videos into {recipe.videos} as <id>.mp4"
        )
    gone = set() if retry else _gone(recipe.out)
    named = sorted((video_id(_address(path), path), path) for path in files)
    return [
        Video(name, tuple(path for _, path in group), name not in gone)
        for name, group in groupby(named, key=lambda pair: pair[0])
    ]


def prepare(
    videos: Sequence[Video], recipe: Recipe, workers: int, progress: Callable[[Made], None] = lambda made: None
) -> Made:
    """Write the frames of all sequences that are not whole, and the list of videos that failed.

    Counts are of videos. Raises ``OSError`` naming the file that cannot be written.
    """
    for folder in (recipe.out / "cameras", recipe.out / "frames", recipe.videos):
        folder.mkdir(parents=True, exist_ok=True)
    made = make_all(_make, ((recipe, [video]) for video in videos), workers, False, progress)
    text = "".join(f"{fault}\n" for fault in sorted(made.faults))
    put(recipe.out / FAILED, lambda part: part.write_text(text, encoding="utf-8"))
    return made


def video_id(url: str, source: Path) -> str:
    """The name of a video in its address. Raises ``ValueError`` naming ``source`` for what is no such address."""
    parts = urlparse(url)
    name = parse_qs(parts.query).get("v", [parts.path.rsplit("/", 1)[-1]])[0]
    if not parts.scheme.startswith("http") or not name or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{source}, line 1: got {url[:60]!r}, expected the address of a video")
    return name


def frames_at(path: Path, stamps_us: Sequence[int]) -> Iterator[tuple[int, UInt8Array]]:
    """(stamp, (H, W, 3) uint8 RGB) of the frames of a video nearest to ascending times in microseconds.

    Raises ``ValueError`` for a file that is no video, or where no frame is nearer than a frame's duration.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            base = stream.time_base or 0
            start_us = container.start_time or 0
            allowed_us = 1e6 / float(stream.average_rate or 10)
            container.seek(start_us + stamps_us[0], backward=True)
            decoded = ((frame.pts * base * 1_000_000 - start_us, frame) for frame in container.decode(stream))
            before = after = next(decoded)
            for stamp in stamps_us:
                while after[0] < stamp:
                    later = next(decoded, None)
                    if later is None:
                        break
                    before, after = after, later
                time, frame = min(before, after, key=lambda pair: abs(pair[0] - stamp))
                if abs(time - stamp) > allowed_us:
                    raise ValueError(f"{path}: got no frame at {stamp / 1e6:.3f} s, expected one; is it another video?")
                yield stamp, frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError, StopIteration) as error:
        raise ValueError(f"{path}: got a file that is no whole video ({error}), expected one") from None


def _make(recipe: Recipe, videos: Sequence[Video]) -> Made:
    made = Made()
    for video in videos:
        wanted = [path for path in video.sequences if not (recipe.out / "cameras" / path.name).is_file()]
        if not wanted:
            made = replace(made, kept=made.kept + 1)
            continue
        there = _video_file(recipe, video.id)
        try:
            path = there or _download(recipe, video)
            faults = [fault for sequence in wanted if (fault := _fault(recipe, path, sequence))]
        except (ValueError, FileNotFoundError) as error:
            faults = [str(error)]
        if faults:
            told = "; ".join(" ".join(fault.split()) for fault in faults)
            made = replace(made, faults=(*made.faults, f"{video.id}: {told}"))
        else:
            made = replace(made, written=made.written + 1)
        downloaded = _video_file(recipe, video.id)
        if there is None and downloaded is not None and not recipe.keep:
            downloaded.unlink()
    return made


def _fault(recipe: Recipe, video: Path, sequence: Path) -> str:
    """``_extract`` of one sequence: what is wrong with it, empty where it is written. The others go on."""
    try:
        _extract(recipe, video, sequence)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def _extract(recipe: Recipe, video: Path, sequence: Path) -> None:
    """All frames of a sequence, then its camera file."""
    stamps = sorted(set(CameraFile.read(sequence).stamps_us))
    folder = recipe.out / "frames" / sequence.stem
    folder.mkdir(exist_ok=True)
    lacking = [stamp for stamp in stamps if not (folder / f"{stamp}.jpg").is_file()]
    rows, columns = recipe.size
    for stamp, image in frames_at(video, lacking) if lacking else ():
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
        write_image(folder / f"{stamp}.jpg", small)
    copy_file(sequence, recipe.out / "cameras" / sequence.name)


def _video_file(recipe: Recipe, name: str) -> Path | None:
    return next((path for ending in ENDINGS if (path := recipe.videos / f"{name}{ending}").is_file()), None)


def _download(recipe: Recipe, video: Video) -> Path:
    """Fetch a video. Raises ``FileNotFoundError`` with the program's last words."""
    if not recipe.download:
        raise FileNotFoundError(f"{recipe.videos / video.id}.mp4 is missing, expected the video")
    if not video.again:
        raise FileNotFoundError(f"{NOT_DOWNLOADED} by an earlier run")
    target = str(recipe.videos / "%(id)s.%(ext)s")
    address = f"https://www.youtube.com/watch?v={video.id}"
    command = [DOWNLOADER, "--quiet", "--no-warnings", "--format", FORMAT, "--output", target, "--", address]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S)
        said = ended.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        said = [f"not done after {DOWNLOAD_LIMIT_S} s"]
    path = _video_file(recipe, video.id)
    if path is None:
        raise FileNotFoundError(f"{NOT_DOWNLOADED} ({said[-1] if said else f'{DOWNLOADER} says nothing'})")
    return path


def _address(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip()


def _gone(out: Path) -> set[str]:
    """Videos that an earlier run could not download."""
    path = out / FAILED
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name for name, _, reason in (line.partition(": ") for line in lines) if reason.startswith(NOT_DOWNLOADED)}
