"""The frames of a published KITTI raw list, with stereo partner and neighbours in time as further views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from kyn_models.data.calibration import resized_source
from kyn_models.data.kitti_raw import KittiRawFolder
from kyn_models.data.splits import SplitLine
from kyn_models.types import Float32Array, Observation, PosedFrame, Sample


class KittiRawSplit:
    """Lines ``<date>/<drive> <frame> <l|r>`` of a split file: ``len()`` and ``[i] -> Sample``.

    root, poses: as in ``KittiRawFolder``; poses are read only where there are ``views``. views: further frames of each
    sample as ("same" or "other" camera, frame offset); an offset beyond the drive's first or last image gives that
    image, as published. size: (height, width) that images are resized to (linear, as published), None as they are;
    the camera's ``normalised()`` stays that of the source. depth: ``depth_m`` from the frame's scan.
    Published training: views (("same", 1), ("other", 0), ("other", 1)), size (192, 640).
    strict: a line that names a missing file is an error, else it is counted in ``missing`` and left out.
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing; also where no line is left.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | Path,
        poses: str | Path | None = None,
        views: Sequence[tuple[str, int]] = (),
        size: tuple[int, int] | None = None,
        depth: bool = True,
        strict: bool = False,
    ) -> None:
        if any(which not in ("same", "other") for which, _ in views):
            raise ValueError(f"views: got {views}, expected pairs of 'same' or 'other' and a frame offset")
        if depth and size:
            raise ValueError(f"size: got {size} with depth, expected none: depth truth is of the image as it is stored")
        self.folder = KittiRawFolder(root, poses)
        self.views, self.size, self.depth = tuple(views), size, depth
        self.lines: tuple[SplitLine, ...] = ()
        """The lines that are items."""
        self.missing: tuple[str, ...] = ()
        """One sentence for every line that was left out."""
        self._choose(self.folder.split_lines(split), strict)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Sample:
        """``Sample.name`` is ``<drive>_<frame, 10 digits>_<camera>``. Raises by file name."""
        line = self.lines[index]
        camera = self.folder.cameras(line.camera)[0]
        key = self.folder.posed_frame(line.drive, line.frame, camera, posed=bool(self.views))
        views = [self.folder.posed_frame(line.drive, frame, name) for name, frame in self._shots(line)]
        return Sample(
            name=self.name(index),
            observation=Observation((self._sized(key),), self.folder.base_from_camera(line.drive, camera)),
            views=tuple(self._sized(view) for view in views),
            depth_m=self.folder.depth(line.drive, line.frame, camera) if self.depth else None,
        )

    def name(self, index: int) -> str:
        """Drive, frame and camera of an item; reads nothing."""
        line = self.lines[index]
        return f"{Path(line.drive).name}_{line.frame:010d}_{self.folder.cameras(line.camera)[0]}"

    def published_depth(self, index: int) -> Float32Array:
        """(H, W) depth truth at the source size, as published evaluations form it. Raises ``FileNotFoundError``."""
        line = self.lines[index]
        truth = self.folder.published_depth(line.drive, line.frame, self.folder.cameras(line.camera)[0])
        if truth is None:
            raise FileNotFoundError(f"{self.folder.scan_path(line.drive, line.frame)}: missing, expected a scan")
        return truth

    def _shots(self, line: SplitLine) -> list[tuple[str, int]]:
        """(camera, frame) of the further views."""
        same, other = self.folder.cameras(line.camera)
        shots = []
        for which, offset in self.views:
            camera = same if which == "same" else other
            there = self.folder.image_frames(line.drive, camera)
            shots.append((camera, min(max(line.frame + offset, min(there)), max(there)) if there else line.frame))
        return shots

    def _choose(self, lines: Sequence[SplitLine], strict: bool) -> None:
        chosen, missing = [], []
        for line in lines:
            fault = self._fault(line)
            if fault is None:
                chosen.append(line)
                continue
            missing.append(f"{line.source}: names frame {line.frame} of {line.drive}, {fault}")
            if strict:
                raise FileNotFoundError(missing[0])
        if not chosen:
            raise FileNotFoundError(f"{missing[0]}, and none of the {len(missing)} lines is whole here")
        self.lines, self.missing = tuple(chosen), tuple(missing)

    def _fault(self, line: SplitLine) -> str | None:
        """What is missing, as the end of a sentence; None where all is there."""
        camera = self.folder.cameras(line.camera)[0]
        shots = [(camera, line.frame), *self._shots(line)]
        for name, frame in shots:
            if frame not in self.folder.image_frames(line.drive, name):
                return f"whose image {self.folder.image_path(line.drive, frame, name)} is missing"
        truth = (
            self.folder.scan_path(line.drive, line.frame),
            self.folder.truth_path(line.drive, line.frame, camera),
        )
        if self.depth and not any(path.is_file() for path in truth):
            return f"whose scan {truth[0]} is missing"
        if not self.views:
            return None
        try:
            poses = self.folder.poses(line.drive)
        except FileNotFoundError as error:
            return f"a drive without poses ({error})"
        unposed = [frame for _, frame in shots if frame not in poses.frames]
        return f"of whose frames {unposed[0]} has no pose" if unposed else None

    def _sized(self, frame: PosedFrame) -> PosedFrame:
        if self.size is None or frame.image.shape[:2] == self.size:
            return frame
        height, width = self.size
        image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_LINEAR)
        return replace(frame, image=image, intrinsics=resized_source(frame.intrinsics, width, height))
