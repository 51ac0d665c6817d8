"""What another camera would see: colour, depth and where no colour is known, from one observation. numpy and numba.

A density field says where light ends, given images say which colour is there (Wimbauer et al. 2023, equations 3 to 5):
a sample has the colour of the first source whose image it falls into. What a source's own foreground hides from it is
not looked for, as published. Everything is in the key frame's camera axes, metres.

The field of a model is known in its frustum only. ``outside="empty"``: density 0 elsewhere (beside the image, behind
the camera, nearer than the model's range), and light that ends where no source looks is reported as ``unseen``.
``outside="continued"``: as the published evaluators have it, which never look at what is valid: beside the image the
network is asked with the border's feature, and colours repeat the border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kyn_models import novel_view_loops as loops
from kyn_models.models import ATTENDING_FAMILIES
from kyn_models.predictor import Predictor
from kyn_models.runtimes.queries import SAMPLES_PER_RAY
from kyn_models.types import Float32Array, Float64Array, Intrinsics, Observation, PosedFrame, UInt8Array, check_pose

Field = Callable[[Float32Array], Float32Array]
"""From (N, 3) float32 points in key frame axes to (N,) float32 density."""
Outside = Literal["empty", "continued"]

POINTS_AT_ONCE = 1 << 23
"""Samples of a view that are held at once: a view of 640x192 with 64 samples is one piece (about 0.5 GB)."""
GREY = (62, 66, 74)


@dataclass(frozen=True)
class Source:
    """An image that gives colours.

    image: (H, W, 3) uint8 or float32 in 0..1, RGB. k_norm: (3, 3), its camera to [-1, 1] image coordinates.
    camera_from_key: (4, 4).
    """

    image: np.ndarray
    k_norm: Float64Array
    camera_from_key: Float64Array

    @classmethod
    def of(cls, frame: PosedFrame, key: PosedFrame) -> Source:
        """A posed frame as the key frame's colours. Raises ``ValueError`` for another frame without a pose."""
        if frame is key:
            return cls(frame.image, centred(frame.intrinsics), np.eye(4))
        if frame.world_from_camera is None or key.world_from_camera is None:
            raise ValueError("colour frame: got no pose of it or of the key frame, expected world_from_camera of both")
        return cls(frame.image, centred(frame.intrinsics), between(frame, key))


@dataclass(frozen=True)
class Scene:
    """A field, where it is known, and the images that give colours.

    views: (F, 3, 3) normalised camera matrices of key frame axes: known is what all of them show. nearest_m: and what
    is deeper than this. whole: the field must get all points of a view in one call, because they count for each other.
    """

    field: Field
    sources: tuple[Source, ...]
    views: tuple[Float64Array, ...] = ()
    nearest_m: float = loops.EPSILON_M
    whole: bool = False
    outside: Outside = "empty"

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("scene: got no source of colours, expected at least the key frame")

    @classmethod
    def of(
        cls,
        predictor: Predictor,
        observation: Observation,
        sources: Sequence[Source] | None = None,
        outside: Outside = "empty",
        points_per_call: int | None = None,
    ) -> Scene:
        """What a model says about an observation. sources: else the key frame's image alone. points_per_call: see
        ``Predictor.density``."""
        artifact, key = predictor.artifact, observation.key
        return cls(
            field=lambda points: predictor.density(observation, points, points_per_call),
            sources=tuple(sources) if sources is not None else (Source.of(key, key),),
            views=(artifact.camera.k_norm, centred(key.intrinsics)) if outside == "empty" else (),
            nearest_m=artifact.manifest.z_near if outside == "empty" else float(loops.EPSILON_M),
            whole=artifact.manifest.family in ATTENDING_FAMILIES,
            outside=outside,
        )


@dataclass(frozen=True)
class Rays:
    """directions: (h, w, 3) float32 in the novel camera's axes. near_m, far_m: (h, w) or numbers, where sampling
    begins and ends, in lengths of the direction: depths along the optical axis where its z is 1."""

    directions: Float32Array
    near_m: Float32Array | float = 3.0
    far_m: Float32Array | float = 80.0


@dataclass(frozen=True)
class NovelView:
    """colours: (h, w, 3) float32 in 0..1. unseen: (h, w) float32, share of the light whose colour no source has.

    depth_m: (h, w) float32 along the optical axis, by the rule of robots: +Inf where more than half of the light
    reaches the last sample (NaN if the field knows nothing there), else the expected depth of the other samples.
    composite_depth_m: (h, w) float32 of all samples, the last one solid, as the papers have it.
    """

    colours: Float32Array
    depth_m: Float32Array
    composite_depth_m: Float32Array
    unseen: Float32Array

    def image(self, blank: tuple[int, int, int] = GREY) -> UInt8Array:
        """(h, w, 3) uint8 RGB, ``blank`` as far as nothing is seen."""
        share = self.unseen[..., None]
        return np.rint((1 - share) * 255 * self.colours + share * np.array(blank, np.float32)).astype(np.uint8)


def centred(camera: Intrinsics) -> Float64Array:
    """(3, 3) normalised camera matrix by pixel centres: the first pixel's is -1 + 1 / width. (The published one,
    ``Intrinsics.normalised``, is half a pixel off.)"""
    k = camera
    return np.array(
        [
            [2 * k.fx / k.width, 0, (2 * k.cx + 1) / k.width - 1],
            [0, 2 * k.fy / k.height, (2 * k.cy + 1) / k.height - 1],
            [0, 0, 1],
        ]
    )


def between(frame: PosedFrame, key: PosedFrame) -> Float64Array:
    """(4, 4) frame's camera from the key frame's. Both must have poses."""
    assert frame.world_from_camera is not None and key.world_from_camera is not None
    return np.linalg.inv(frame.world_from_camera) @ key.world_from_camera


def pixel_rays(camera: Intrinsics, near_m: float = 3.0, far_m: float = 80.0) -> Rays:
    """Rays through the pixel centres of a camera, z = 1."""
    x, y = np.meshgrid(
        (np.arange(camera.width) - camera.cx) / camera.fx, (np.arange(camera.height) - camera.cy) / camera.fy
    )
    return Rays(np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32), near_m, far_m)


def corner_rays(k_norm: np.ndarray, width: int, height: int, near_m: float = 3.0, far_m: float = 80.0) -> Rays:
    """Rays as the published evaluators have them: evenly from edge to edge of the image, of length 1, so that near,
    far and the steps between samples are distances."""
    u, v = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    rays = np.stack([(u - k_norm[0, 2]) / k_norm[0, 0], (v - k_norm[1, 2]) / k_norm[1, 1], np.ones_like(u)], axis=-1)
    return Rays((rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32), near_m, far_m)


def render(scene: Scene, rays: Rays, key_from_camera: np.ndarray, samples: int = SAMPLES_PER_RAY) -> NovelView:
    """The view of a camera at ``key_from_camera`` (4, 4).

    samples: per ray, in the middles of equal steps of inverse distance (published evaluators draw one at random in
    each step). Raises ``ValueError`` for a pose that is not rigid.
    """
    pose = check_pose("key_from_camera", key_from_camera)
    if samples < 2:
        raise ValueError(f"samples: got {samples}, expected at least 2")
    height, width = rays.directions.shape[:2]
    rows = height if scene.whole else max(1, POINTS_AT_ONCE // (samples * width))
    near, far = (np.broadcast_to(np.asarray(edge, np.float32), (height, width)) for edge in (rays.near_m, rays.far_m))
    canvas = NovelView(
        np.empty((height, width, 3), np.float32), *(np.empty((height, width), np.float32) for _ in range(3))
    )
    colours = _Colours(scene.sources)
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        begin, end = (np.ascontiguousarray(edge[part]).reshape(-1) for edge in (near, far))
        _render_rays(scene, colours, rays.directions[part].reshape(-1, 3), begin, end, pose, samples, canvas, part)
    return canvas


class _Colours:
    """All sources as the loop reads them: views (V, 3, 4), pixels (P, 3), starts (V,), sizes (V, 2)."""

    def __init__(self, sources: Sequence[Source]) -> None:
        images = [s.image if s.image.dtype == np.float32 else s.image.astype(np.float32) / 255 for s in sources]
        self.views = np.stack([s.k_norm @ s.camera_from_key[:3] for s in sources]).astype(np.float32)
        self.pixels = np.concatenate([image.reshape(-1, 3) for image in images])
        self.sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        self.starts = np.cumsum([0, *(len(image.reshape(-1, 3)) for image in images[:-1])])


def _render_rays(
    scene: Scene,
    colours: _Colours,
    directions: Float32Array,
    near: Float32Array,
    far: Float32Array,
    pose: Float64Array,
    samples: int,
    canvas: NovelView,
    rows: slice,
) -> None:
    """Renders (R, 3) rays into some rows of the canvas."""
    slope = np.ascontiguousarray(directions[:, 2])
    origin, turned = pose[:3, 3].astype(np.float32), (directions @ pose[:3, :3].T).astype(np.float32)
    views = np.zeros((len(scene.views), 3, 4), dtype=np.float32)
    for index, k_norm in enumerate(scene.views):
        views[index, :, :3] = k_norm
    known = np.empty((len(directions), samples), dtype=np.uint8)
    loops.mark(origin, turned, near, far, views, np.float32(scene.nearest_m), known)
    first = np.concatenate([[0], np.cumsum(known.sum(axis=1, dtype=np.int64))])
    points = np.empty((first[-1], 3), dtype=np.float32)
    loops.gather(origin, turned, near, far, known, first, points)
    sigma = np.ascontiguousarray(scene.field(points), dtype=np.float32) if len(points) else np.empty(0, np.float32)
    del points
    outputs = [np.empty((len(directions), *extra), np.float32) for extra in ((3,), (), (), ())]
    sources = (colours.views, colours.pixels, colours.starts, colours.sizes, scene.outside == "continued")
    loops.compose(origin, turned, slope, near, far, known, first, sigma, *sources, *outputs)
    shape = canvas.unseen[rows].shape
    canvas.colours[rows] = outputs[0].reshape(*shape, 3)
    canvas.composite_depth_m[rows], canvas.depth_m[rows], canvas.unseen[rows] = (o.reshape(shape) for o in outputs[1:])
