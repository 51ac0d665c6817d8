"""RealEstate10K (Zhou et al., 2018) as `kyn prepare realestate10k` writes it: video clips with a pose for every frame.

<root>/cameras/<sequence>.txt               the data set's own file: the video's address, then a line for each frame
<root>/frames/<sequence>/<timestamp>.jpg    the frames, at any size

A frame's number is its place among the lines. Its line is the time in microseconds, fx fy cx cy as shares of the
image's width and height, two zeros, and the 3x4 pose camera_from_world. The unit of length is arbitrary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from kyn_models.data.calibration import inverse, read_image, require_file, transform
from kyn_models.data.splits import SplitLine
from kyn_models.types import Float32Array, Float64Array, Intrinsics, Observation, PosedFrame, Sample

NUMBERS = 19
CAMERA = "00"
"""What the one camera is called where a layout asks for a name."""
BASE_FROM_CAMERA: Float64Array = np.array([[0, 0, 1.0, 0], [-1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
"""base_link is the camera with its axes turned (x forward, z up): neither height nor pitch is known."""


@dataclass(frozen=True)
class CameraFile:
    """One sequence. url: of its video. stamps_us: times of its frames. cameras: (N, 4) fx, fy, cx, cy as shares of the
    image size. camera_from_world: (N, 4, 4)."""

    url: str
    stamps_us: tuple[int, ...]
    cameras: Float64Array
    camera_from_world: Float64Array

    @classmethod
    def read(cls, path: Path) -> CameraFile:
        """Raises ``FileNotFoundError``, or ``ValueError`` naming the line."""
        require_file(path, "a camera file of RealEstate10K")
        try:
            url, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        except UnicodeDecodeError:
            raise ValueError(f"{path}: got a file that is no text, expected a camera file of RealEstate10K") from None
        stamps, rows = [], []
        for number, line in enumerate(lines, start=2):
            words = line.split()
            if not words:
                continue
            try:
                stamps.append(int(words[0]))
                values = np.array([float(word) for word in words[1:]])
            except ValueError:
                values = np.empty(0)
            if values.size != NUMBERS - 1 or not np.isfinite(values).all():
                raise ValueError(f"{path}, line {number}: got {line[:60]!r}, expected {NUMBERS} finite numbers")
            rows.append(values)
        if not url.strip() or not rows:
            raise ValueError(f"{path}: got no {'frame' if url.strip() else 'address'}, expected a video and its frames")
        table = np.stack(rows)
        poses = np.stack([transform(row[6:].reshape(3, 4)) for row in table])
        return cls(url.strip(), tuple(stamps), table[:, :4], poses)


class RealEstate10kFolder:
    """All sequences of a prepared folder; files are read when they are asked for.

    Raises ``FileNotFoundError`` where the folder holds none.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._drives = tuple(sorted(path.stem for path in (self.root / "cameras").glob("*.txt")))
        if not self._drives:
            raise FileNotFoundError(
                f"{self.root / 'cameras'}: missing or empty, expected <sequence>.txt (see `kyn prepare realestate10k`)"
            )
        self.cameras_of = lru_cache(maxsize=4096)(lambda drive: CameraFile.read(self.root / "cameras" / f"{drive}.txt"))
        """The camera file of a sequence."""
        self._frames = lru_cache(maxsize=None)(self._listed)

    def drives(self) -> Sequence[str]:
        """Names of all sequences, ascending."""
        return self._drives

    def sides(self, stereo: bool) -> Sequence[str]:
        """One camera."""
        return (CAMERA,)

    def split_lines(self, path: str | Path) -> Sequence[SplitLine]:
        """Lines ``<sequence> <frame number>`` of a split file. Raises as ``read_pairs``."""
        return read_pairs(path)

    def cameras(self, side: str) -> Sequence[str]:
        """One camera, without partner."""
        return (CAMERA,)

    def fisheyes(self, side: str) -> Sequence[str]:
        """None."""
        return ()

    def posed_frames(self, drive: str) -> Sequence[int]:
        """All frames of the camera file. Raises ``FileNotFoundError`` where the sequence is not there."""
        return range(len(self.cameras_of(drive).stamps_us))

    def image_frames(self, drive: str, camera: str = CAMERA) -> frozenset[int]:
        """Frames whose image is there; none for a sequence that is not there."""
        return self._frames(drive)

    def image_path(self, drive: str, frame: int) -> Path:
        """Where the image of a frame lies, or would."""
        return self.root / "frames" / drive / f"{self.cameras_of(drive).stamps_us[frame]}.jpg"

    def posed_frame(self, drive: str, frame: int, camera: str = CAMERA) -> PosedFrame:
        """Image, camera, stamp and pose. Raises by file name."""
        sequence = self.cameras_of(drive)
        image = read_image(self.image_path(drive, frame), f"frame {frame} of sequence {drive}")
        height, width = image.shape[:2]
        try:
            return PosedFrame(
                image,
                _pinhole(sequence.cameras[frame], width, height),
                sequence.stamps_us[frame] * 1000,
                inverse(sequence.camera_from_world[frame]),
            )
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ValueError(f"{self.root / 'cameras' / drive}.txt, frame {frame}: {error}") from None

    def intrinsics(self, drive: str, camera: str = CAMERA) -> Intrinsics:
        """The camera of the first frame, at a nominal size of 1280x720: only its ``normalised()`` means something."""
        return _pinhole(self.cameras_of(drive).cameras[0], 1280, 720)

    def base_from_camera(self, drive: str, camera: str = CAMERA) -> Float64Array:
        """(4, 4): only axes are turned."""
        return BASE_FROM_CAMERA

    def depth(self, drive: str, frame: int, camera: str = CAMERA) -> Float32Array | None:
        """None: there is no depth truth."""
        return None

    def _listed(self, drive: str) -> frozenset[int]:
        if drive not in self._drives:
            return frozenset()
        there = {path.stem for path in (self.root / "frames" / drive).glob("*.jpg")}
        return frozenset(i for i, stamp in enumerate(self.cameras_of(drive).stamps_us) if str(stamp) in there)


def _pinhole(shares: np.ndarray, width: int, height: int) -> Intrinsics:
    """The camera whose ``normalised()`` is 2 f and 2 c - 1 of the shares, as published, at any size of the image."""
    fx, fy, cx, cy = (float(value) for value in shares)
    return Intrinsics(fx * width, fy * height, cx * width, cy * height, width, height)


def read_pairs(path: str | Path) -> list[SplitLine]:
    """All lines ``<sequence> <frame number>`` of a split file; ``camera`` is "00" in all of them.

    Raises ``FileNotFoundError``, or ``ValueError`` naming the line.
    """
    what = "lines of '<sequence> <frame number>'"
    lines = []
    for number, text in enumerate(require_file(Path(path), what).read_text(encoding="utf-8").splitlines(), start=1):
        words = text.split()
        if not words:
            continue
        if len(words) != 2 or not words[1].isdigit():
            raise ValueError(f"{path}, line {number}: got {text[:60]!r}, expected '<sequence> <frame number>'")
        lines.append(SplitLine(words[0], int(words[1]), CAMERA, f"{path}, line {number}"))
    if not lines:
        raise ValueError(f"{path}: got an empty split file, expected {what}")
    return lines


class RealEstate10k:
    """Key frames with further frames of their sequence: ``len()`` and ``[i] -> Sample``, without depth.

    For evaluation; training reads the same folder by ``sources.Frames``, which draws views at many distances.
    root: a prepared folder. split: file of ``<sequence> <frame number>`` lines, None for all frames. views: how many
    frames later each further frame is; beyond the ends it is the first or last one, as published. Without a split,
    frames whose views do not lie in the sequence are no items. strict: a frame of the split whose image or view is
    missing is an error, else it is counted in ``missing`` and left out.
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | Path | None = None,
        views: Sequence[int] = (5,),
        strict: bool = False,
    ) -> None:
        self.folder = RealEstate10kFolder(root)
        self.views = tuple(views)
        self.missing: tuple[str, ...] = ()
        """One sentence for every line of the split that was left out."""
        self.items: tuple[tuple[str, int], ...] = self._of_split(split, strict) if split else self._all()
        """(sequence, frame number) of each item."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """``Sample.name`` is ``<sequence>_<frame number, 10 digits>``. Raises by file name."""
        drive, frame = self.items[index]
        shots = (frame, *self._shots(drive, frame))
        key, *others = [self.folder.posed_frame(drive, number) for number in shots]
        return Sample(f"{drive}_{frame:010d}", Observation((key,), BASE_FROM_CAMERA), tuple(others))

    def _shots(self, drive: str, frame: int) -> list[int]:
        last = len(self.folder.posed_frames(drive)) - 1
        return [min(max(frame + offset, 0), last) for offset in self.views]

    def _all(self) -> tuple[tuple[str, int], ...]:
        before, after = -min(0, *self.views, 0), max(0, *self.views, 0)
        items = []
        for drive in self.folder.drives():
            there, count = self.folder.image_frames(drive), len(self.folder.posed_frames(drive))
            items += [
                (drive, frame)
                for frame in range(before, count - after)
                if frame in there and self._whole(drive, frame, there)
            ]
        if not items:
            raise ValueError(
                f"{self.folder.root}: got {len(self.folder.drives())} sequences and no frame with the images of all "
                "its views, expected some"
            )
        return tuple(items)

    def _of_split(self, split: str | Path, strict: bool) -> tuple[tuple[str, int], ...]:
        items, missing = [], []
        for line in self.folder.split_lines(split):
            there = self.folder.image_frames(line.drive)
            if line.frame in there and self._whole(line.drive, line.frame, there):
                items.append((line.drive, line.frame))
                continue
            lack = "whose image" if line.frame not in there else "of whose views an image"
            missing.append(f"{line.source}: names frame {line.frame} of {line.drive}, {lack} is missing")
            if strict:
                raise FileNotFoundError(missing[0])
        if not items:
            raise FileNotFoundError(f"{missing[0]}, and none of the {len(missing)} lines is whole here")
        self.missing = tuple(missing)
        return tuple(items)

    def _whole(self, drive: str, frame: int, there: frozenset[int]) -> bool:
        """Whether all views have images."""
        return all(shot in there for shot in self._shots(drive, frame))
