"""Synthetic streets: ``make_street(seed)`` builds one, ``Streets`` is a data set of them.

Everything visible is an exact solid or the ground, so depth, occupancy and visibility are exact too. No file is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kyn_models.data.street_build import StreetOptions, make_street
from kyn_models.data.street_scene import FRAME_S, Rendered, Scene, Street
from kyn_models.data.street_sensors import CAMERAS, INTRINSICS, Mount, base_from_camera, noise_seed, random_mount
from kyn_models.types import Float64Array, Intrinsics, Observation, PosedFrame, Sample

__all__ = [
    "FRAME_S",
    "Rendered",
    "Scene",
    "Street",
    "StreetOptions",
    "Streets",
    "StreetsOptions",
    "base_from_camera",
    "make_street",
    "random_mount",
]


@dataclass(frozen=True)
class StreetsOptions:
    """What the items are.

    streets, frames_per_street: size of the data set; items of one street are neighbours. first_seed: its first street.
    width, height: image size; the camera is KITTI-360's, resized. key_camera: 00, 01, left or right.
    views: further frames of every item as (camera, frame offset), e.g. ("01", 0) the stereo partner, ("00", 1) the next
    frame. neighbours: frame offsets of the key camera that models of several frames get beside the key frame, e.g.
    (-1, 1). stereo: the right image of the key frame is one more of them, for key camera 00. mount_strength: variation
    of the mount between streets (0: KITTI-360's own).
    """

    streets: int = 1000
    frames_per_street: int = 4
    first_seed: int = 0
    width: int = 640
    height: int = 192
    key_camera: str = "00"
    views: tuple[tuple[str, int], ...] = (("01", 0),)
    neighbours: tuple[int, ...] = ()
    stereo: bool = False
    mount_strength: float = 1.0
    street: StreetOptions = StreetOptions()

    def __post_init__(self) -> None:
        for name in ("streets", "frames_per_street", "width", "height"):
            if getattr(self, name) < 1:
                raise ValueError(f"streets.{name}: got {getattr(self, name)}, expected at least 1")
        if self.mount_strength < 0:
            raise ValueError(f"streets.mount_strength: got {self.mount_strength}, expected 0 or above")
        for camera in (self.key_camera, *(camera for camera, _ in self.views)):
            if camera not in CAMERAS:
                raise ValueError(f"streets.views, key_camera: got '{camera}', expected 00, 01, left or right")
        if 0 in self.neighbours:
            raise ValueError("streets.neighbours: got offset 0, which is the key frame, expected others")
        if self.stereo and self.key_camera != "00":
            raise ValueError(
                f"streets.stereo: got key camera {self.key_camera}, expected 00, which has a right partner"
            )


@lru_cache(maxsize=3)
def _street(seed: int, options: StreetOptions) -> Street:
    """The last few streets, for items that are neighbours."""
    return make_street(seed, options)


@lru_cache(maxsize=3)
def _scene(seed: int, options: StreetOptions, frame: int) -> Scene:
    """The last few scenes, for the pictures of one item."""
    return _street(seed, options).at(frame * FRAME_S)


class Streets:
    """Items of ``StreetsOptions``; item i is the same in every process, in any order of access.

    intrinsics: another camera than KITTI-360's, which then says the image size too.
    """

    def __init__(self, options: StreetsOptions | None = None, intrinsics: Intrinsics | None = None) -> None:
        self.options = options or StreetsOptions()
        self.intrinsics = intrinsics or INTRINSICS.resized(self.options.width, self.options.height)

    def __len__(self) -> int:
        return self.options.streets * self.options.frames_per_street

    def street(self, index: int) -> Street:
        """The street of item ``index``."""
        if not 0 <= index < len(self):
            raise IndexError(f"streets: got item {index}, expected 0 to {len(self) - 1}")
        return _street(self.options.first_seed + index // self.options.frames_per_street, self.options.street)

    def frame(self, index: int) -> int:
        """Frame number of item ``index`` in its drive: spread over the drive, one at random in each part."""
        street, k = self.street(index), index % self.options.frames_per_street
        part = street.frames / self.options.frames_per_street
        return int(part * (k + np.random.default_rng((street.seed, 3, k)).random()))

    def scene(self, index: int, offset: int = 0) -> Scene:
        """The street at the item's time, or ``offset`` frames later."""
        return _scene(self.street(index).seed, self.options.street, self.frame(index) + offset)

    def world_from_base(self, index: int, offset: int = 0) -> Float64Array:
        """(4, 4) pose of base_link in the scene's world frame."""
        return self.street(index).world_from_base((self.frame(index) + offset) * FRAME_S)

    def mount(self, index: int) -> Mount:
        """How this street's car carries its cameras."""
        rng = np.random.default_rng((self.street(index).seed, 4))
        return random_mount(rng, self.options.mount_strength)

    def base_from_camera(self, index: int, camera: str) -> Float64Array:
        """(4, 4) mount of a camera of the item's car."""
        return base_from_camera(camera, self.mount(index))

    def _shot(self, index: int, camera: str, offset: int) -> tuple[PosedFrame, Rendered]:
        pose = self.world_from_base(index, offset) @ self.base_from_camera(index, camera)
        number = self.frame(index) + offset
        rendered = self.scene(index, offset).render(self.intrinsics, pose, noise_seed=noise_seed(camera, number))
        stamp = round(number * FRAME_S * 1e9)
        return PosedFrame(rendered.image, self.intrinsics, stamp, pose), rendered

    def __getitem__(self, index: int) -> Sample:
        camera = self.options.key_camera
        key, truth = self._shot(index, camera, 0)
        shots = [(camera, offset) for offset in self.options.neighbours] + [("01", 0)] * self.options.stereo
        neighbours = tuple(self._shot(index, name, offset)[0] for name, offset in shots)
        return Sample(
            name=f"street{self.street(index).seed:06d}_{self.frame(index):010d}",
            observation=Observation((key, *neighbours), self.base_from_camera(index, camera)),
            views=tuple(self._shot(index, name, offset)[0] for name, offset in self.options.views),
            depth_m=truth.depth_m,
            instances=truth.instances,
            moving=truth.moving,
        )
