"""The core types: what enters and leaves every model, on a robot and in a data set alike. numpy only.

Conventions (all of kyn):

* Camera axes: x right, y down, z forward (the ROS *optical* frame). ``base_link``: x forward, y left, z up,
  z = 0 on the road.
* Poses are 4x4 float64 and read left to right: ``a_from_b`` takes coordinates in ``b`` to coordinates in ``a``.
* Pixels as in ``sensor_msgs/CameraInfo``: the centre of the first pixel is (0, 0).
* Lengths in metres, angles in radians, stamps in integer nanoseconds.

Every type checks itself once, on construction, and says what was wrong, what it got, what it expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]

UNKNOWN = 255
"""Byte of an ``OccupancyVolume`` cell about which the model says nothing."""


def check_pose(name: str, pose: np.ndarray) -> Float64Array:
    """Return ``pose`` as a read-only (4, 4) float64 rigid transform, or raise ``ValueError`` with one sentence."""
    pose = np.array(pose, dtype=np.float64)
    if pose.shape != (4, 4):
        raise ValueError(f"{name}: got shape {pose.shape}, expected a 4x4 matrix")
    if not np.isfinite(pose).all():
        raise ValueError(f"{name}: got NaN or infinite entries, expected a finite 4x4 matrix")
    rotation = pose[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0
    if not rigid or not np.allclose(pose[3], (0, 0, 0, 1), atol=1e-6):
        raise ValueError(f"{name}: got a matrix that is not a rigid transform, expected rotation and translation only")
    pose.setflags(write=False)
    return pose


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion.

    fx, fy, cx, cy: focal lengths and principal point in pixels, the centre of the first pixel at (0, 0).
    width, height: image size in pixels.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy)
        if not np.isfinite(numbers).all():
            raise ValueError(f"intrinsics: got {numbers}, expected finite fx, fy, cx, cy")
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(
                f"intrinsics: got fx={self.fx}, fy={self.fy}, expected both above 0 (0 means an uncalibrated camera)"
            )
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"intrinsics: got image size {self.width}x{self.height}, expected both above 0")

    def __str__(self) -> str:
        """``640x192 pixels, fx 251.2, fy 281.9, cx 310.5, cy 115.7``, for messages."""
        numbers = (f"{name} {getattr(self, name):.1f}" for name in ("fx", "fy", "cx", "cy"))
        return f"{self.width}x{self.height} pixels, {', '.join(numbers)}"

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, width: int, height: int) -> Intrinsics:
        """From a (3, 3) camera matrix K (or the left part of a (3, 4) P) and the image size in pixels."""
        k = np.asarray(matrix, dtype=np.float64)
        return cls(float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]), int(width), int(height))

    @property
    def matrix(self) -> Float64Array:
        """(3, 3) float64 camera matrix K."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    def resized(self, width: int, height: int) -> Intrinsics:
        """The camera of the same image resized to ``width`` x ``height``: c' = (c + 1/2) s - 1/2, f' = f s."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            self.fx * sx, self.fy * sy, (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5, width, height
        )

    def normalised(self) -> Float64Array:
        """(3, 3) K_norm that takes camera rays to [-1, 1] image coordinates, exactly as the papers' code has it.

        2 f / size on the diagonal, 2 c / size - 1 in the last column. To be taken from the SOURCE camera, before
        its image is resized (Behind the Scenes and Know Your Neighbors, KITTI-360 readers).
        """
        return np.array(
            [
                [2 * self.fx / self.width, 0, 2 * self.cx / self.width - 1],
                [0, 2 * self.fy / self.height, 2 * self.cy / self.height - 1],
                [0, 0, 1],
            ],
            dtype=np.float64,
        )


@dataclass(frozen=True)
class PosedFrame:
    """One rectified image with its camera and, where known, its pose.

    image: (H, W, 3) uint8 RGB, without lens distortion.
    intrinsics: pinhole camera of that image (same size).
    stamp_ns: acquisition time in nanoseconds.
    world_from_camera: (4, 4) float64 pose of the optical frame in a fixed frame, or None where unknown.
    """

    image: UInt8Array
    intrinsics: Intrinsics
    stamp_ns: int = 0
    world_from_camera: Float64Array | None = None

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"image: got {got}, expected uint8 (H, W, 3) RGB")
        if image.shape[:2] != (self.intrinsics.height, self.intrinsics.width):
            raise ValueError(
                f"image: got {image.shape[1]}x{image.shape[0]} pixels, expected "
                f"{self.intrinsics.width}x{self.intrinsics.height} as its intrinsics say"
            )
        if self.world_from_camera is not None:
            object.__setattr__(self, "world_from_camera", check_pose("world_from_camera", self.world_from_camera))


@dataclass(frozen=True)
class Observation:
    """What a model is asked about: a data set item and a robot's input are this same type.

    frames: the key frame first, then its neighbours in time (none for single-image families).
    base_from_camera: (4, 4) float64 mount of the key frame's optical frame in ``base_link``.
    """

    frames: tuple[PosedFrame, ...]
    base_from_camera: Float64Array

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("observation: got no frame, expected at least the key frame")
        object.__setattr__(self, "base_from_camera", check_pose("base_from_camera", self.base_from_camera))

    @property
    def key(self) -> PosedFrame:
        """The frame that the outputs belong to."""
        return self.frames[0]


@dataclass(frozen=True)
class Sample:
    """A data set item: an observation, and what is known about it. Fields that a data set lacks are None or empty.

    name: ``<drive>_<frame, 10 digits>``, unique in the data set.
    views: further posed frames (stereo partner, neighbours in time) for colour losses and view synthesis.
    depth_m: (H, W) float32 true depth of the key frame along the optical axis, NaN unknown, +Inf sky.
    instances: (H, W) uint16 instance number per pixel of the key frame, 0 none.
    moving: (H, W) bool, pixels of the key frame on objects that move.
    """

    name: str
    observation: Observation
    views: tuple[PosedFrame, ...] = ()
    depth_m: Float32Array | None = None
    instances: NDArray[np.uint16] | None = None
    moving: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class VoxelGridSpec:
    """An axis-parallel voxel grid in ``base_link`` (or any frame the caller names).

    x_m, y_m, z_m: (from, to) in metres; resolution_m: edge of a cell. Arrays over the grid have shape (nz, ny, nx):
    x runs fastest, then y, then z.
    """

    x_m: tuple[float, float] = (0.0, 50.0)
    y_m: tuple[float, float] = (-10.0, 10.0)
    z_m: tuple[float, float] = (-0.4, 2.8)
    resolution_m: float = 0.2

    def __post_init__(self) -> None:
        if not np.isfinite(self.resolution_m) or self.resolution_m <= 0:
            raise ValueError(f"grid.resolution_m: got {self.resolution_m}, expected a length above 0")
        for name in ("x_m", "y_m", "z_m"):
            bounds = tuple(float(value) for value in getattr(self, name))
            if len(bounds) != 2 or not np.isfinite(bounds).all() or bounds[0] >= bounds[1]:
                raise ValueError(f"grid.{name}: got {bounds}, expected (from, to) with from < to")
            for value in bounds:
                if abs(value / self.resolution_m - round(value / self.resolution_m)) > 1e-3:
                    raise ValueError(
                        f"grid.{name}: got {value}, expected a multiple of grid.resolution_m = {self.resolution_m} "
                        "(other origins are resampled by costmaps)"
                    )
            object.__setattr__(self, name, bounds)

    def _cells(self, bounds: tuple[float, float]) -> int:
        return round((bounds[1] - bounds[0]) / self.resolution_m)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(nz, ny, nx)."""
        return self._cells(self.z_m), self._cells(self.y_m), self._cells(self.x_m)

    @property
    def origin_m(self) -> tuple[float, float, float]:
        """Outer corner of cell (0, 0, 0)."""
        return self.x_m[0], self.y_m[0], self.z_m[0]

    def axes(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Cell centres along z, y, x: three 1-D float64 arrays."""
        nz, ny, nx = self.shape
        half = self.resolution_m / 2
        z, y, x = (
            np.asarray(low + half + self.resolution_m * np.arange(count), dtype=np.float64)
            for low, count in ((self.z_m[0], nz), (self.y_m[0], ny), (self.x_m[0], nx))
        )
        return z, y, x

    def centres(self) -> Float32Array:
        """(nz, ny, nx, 3) float32 x, y, z of every cell centre."""
        z, y, x = np.meshgrid(*self.axes(), indexing="ij")
        return np.stack([x, y, z], axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Prediction:
    """What the predictor says about one observation. Outputs that were not asked for are None.

    stamp_ns: the key frame's stamp.
    image: (h, w, 3) uint8 RGB, the key frame in the canonical camera, which ``depth_m`` belongs to.
    intrinsics: the canonical camera at the model's image size.
    depth_m: (h, w) float32 metres along the optical axis; NaN invalid, +Inf sky or beyond range.
    volume: (nz, ny, nx) uint8, round(254 p), 255 unknown; in ``base_link``.
    labels: (nz, ny, nx) uint8 index into ``label_names``, ``UNKNOWN`` where ``volume`` is; comes with the volume, None
    for families without labels.
    grid: int8 (ny, nx), 100 occupied, 0 free, -1 unknown (0..100 in mode ``probability``).
    spec: the voxel grid of volume and grid.
    base_from_camera: the mount it was computed with.
    stages_ms: milliseconds spent per stage.
    frames_used: of the observation: 1 where one image alone decided, as it does in models of a single image.
    """

    stamp_ns: int
    image: UInt8Array
    intrinsics: Intrinsics
    spec: VoxelGridSpec
    base_from_camera: Float64Array
    depth_m: Float32Array | None = None
    volume: UInt8Array | None = None
    labels: UInt8Array | None = None
    label_names: tuple[str, ...] = ()
    grid: NDArray[np.int8] | None = None
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    frames_used: int = 1
