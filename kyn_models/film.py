"""Pictures of films: a flight through what one image says, and the rise from the depth map to the street from above.

All pictures are (H, W, 3) uint8 RGB of one even size per film.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from kyn_models import views
from kyn_models.novel_view import NovelView, Rays, Scene, Source, centred, pixel_rays, render
from kyn_models.types import Float64Array, Intrinsics, Observation, UInt8Array

VIEW_WIDTH = 640
SAMPLES = 96
"""Per ray: with the 64 of a depth image walls seen from the side are stairs."""
MAP_WIDTH = 196
CANVAS = (640, 400)
"""Width and height of each of the two halves of the rise, below its title."""
TOP_WIDTH = 460
"""Width of the last view in it."""
GROUND_M = -0.3
"""Where rays from above end: below the road as far as a mount may be wrong."""
CEILINGS_M = (30.0, 2.2)
"""The roof that is lifted: what is higher above the road is not drawn, at the beginning and at the end."""
TOP_M = (2.0, 32.0)
"""What the last picture shows of the road ahead, metres from base_link's origin."""
TOP_HEIGHT_M = 40.0
"""The last camera's height: high enough that walls do not lean."""
HIGH_M = (0.25, 1.2)
"""Heights above the road between which free turns to occupied in the colours from above."""
LEGEND_WIDTH = 560
"""What the legend needs; a narrower canvas shows its beginning."""
HOLD = (6, 12)
"""Still pictures at the beginning and the end of the rise, per 48 pictures between."""


def film_camera(camera: Intrinsics, width: int = VIEW_WIDTH) -> Intrinsics:
    """The camera of a picture of that width, even in height."""
    return camera.resized(width, max(2, round(width * camera.height / camera.width / 2) * 2))


def key_source(observation: Observation, camera: Intrinsics) -> Source:
    """The key frame's colours at a picture's size: smaller pictures of a large image do not flicker."""
    image = observation.key.image
    if camera.width < image.shape[1]:
        image = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return Source(image, centred(observation.key.intrinsics), np.eye(4))


def flight(scene: Scene, observation: Observation, poses: Float64Array, name: str) -> Iterator[UInt8Array]:
    """One picture per pose ``key_from_camera`` (n, 4, 4): novel view, its depth, the input and a map of the path."""
    camera = film_camera(observation.key.intrinsics)
    rays = pixel_rays(camera)
    for index, pose in enumerate(poses):
        view = render(scene, rays, pose, SAMPLES)
        x, y, z = np.round(pose[:3, 3] * (1, -1, 1), 1) + 0.0  # no -0.0 in the title
        depth = views.colourise_depth(np.where(view.unseen > 0.5, np.nan, view.depth_m))
        left = np.vstack(
            [
                views.titled(view.image(), f"novel view  {name}  right {x:+.1f} m  up {y:+.1f} m  ahead {z:+.1f} m"),
                views.titled(
                    np.vstack([depth, views.depth_scale(camera.width, True)]), "its depth along the optical axis"
                ),
            ]
        )
        yield even(np.hstack([left, _side(observation, poses, index, left.shape[0])]))


def even(picture: UInt8Array) -> UInt8Array:
    """Without the last row and column where they are odd in number, as video needs."""
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


def _side(observation: Observation, poses: Float64Array, index: int, height: int) -> UInt8Array:
    """The input in small, and the path from above (forward up) with the novel camera on it."""
    image = observation.key.image
    small = (MAP_WIDTH, round(MAP_WIDTH * image.shape[0] / image.shape[1]))
    top = views.titled(cv2.resize(image, small, interpolation=cv2.INTER_AREA), "input")
    picture = np.full((height - top.shape[0] - 24, MAP_WIDTH, 3), views.BACKGROUND, dtype=np.uint8)
    ground = poses[:, [0, 2], 3]
    low, high = np.minimum(ground.min(axis=0), -2.0), np.maximum(ground.max(axis=0), 2.0)
    scale = 0.7 * min(picture.shape[1] / (high[0] - low[0]), picture.shape[0] / (high[1] - low[1]))
    middle = (low + high) / 2

    def pixel(point: np.ndarray) -> tuple[int, int]:
        x, y = (point - middle) * scale * (1, -1) + (picture.shape[1] / 2, picture.shape[0] / 2)
        return round(float(x)), round(float(y))

    metre = round(scale)
    cv2.line(picture, (10, picture.shape[0] - 12), (10 + metre, picture.shape[0] - 12), views.INK, 2)
    views.label(picture, "1 m", (10, picture.shape[0] - 18), 0.36)
    _draw_camera(picture, pixel, np.eye(4), observation.key.intrinsics, views.UNKNOWN_COLOUR)
    line = np.array([pixel(point) for point in ground], dtype=np.int32)
    cv2.polylines(picture, [line], False, views.FREE_COLOUR, 1, cv2.LINE_AA)
    _draw_camera(picture, pixel, poses[index], observation.key.intrinsics, views.FRUSTUM_COLOUR)
    return np.vstack([top, views.titled(picture, "path from above")])


def _draw_camera(picture: UInt8Array, pixel, pose: np.ndarray, k: Intrinsics, colour: tuple[int, int, int]) -> None:  # type: ignore[no-untyped-def]
    """A camera as the two edges of what it sees, 1.2 m long."""
    for column in (-0.5, k.width - 0.5):
        ray = pose[:3, :3] @ np.array([(column - k.cx) / k.fx, 0.0, 1.0])
        end = pose[[0, 2], 3] + 1.2 * ray[[0, 2]] / np.linalg.norm(ray[[0, 2]])
        cv2.line(picture, pixel(pose[[0, 2], 3]), pixel(end), colour, 1, cv2.LINE_AA)
    cv2.circle(picture, pixel(pose[[0, 2], 3]), 3, colour, -1, cv2.LINE_AA)


def rise(scene: Scene, observation: Observation, count: int) -> Iterator[UInt8Array]:
    """From the depth map of the key camera to the street from above, in ``count`` pictures and some still ones.

    The camera goes back and up until it looks straight down from ``TOP_HEIGHT_M``, and the roof over the street comes
    down to 2.2 m meanwhile. Left the colours of the input, right depth that turns into free (pale) and occupied (red).
    """
    for index in range(count):
        t = index / max(1, count - 1)
        picture = rise_picture(scene, observation, t * t * t * (10 + t * (6 * t - 15)))
        for _ in range(1 + (_still(count)[0] if index == 0 else _still(count)[1] if index == count - 1 else 0)):
            yield picture


def rise_pictures(count: int) -> int:
    """How many pictures ``rise`` gives."""
    return count + sum(_still(count))


def _still(count: int) -> tuple[int, int]:
    return HOLD[0] * count // 48, HOLD[1] * count // 48


def rise_picture(scene: Scene, observation: Observation, progress: float) -> UInt8Array:
    """One picture of the rise, ``progress`` 0 to 1."""
    camera, base_from_camera = _rise_camera(observation, progress)
    rays = pixel_rays(camera)
    toward_sky = rays.directions @ base_from_camera[2, :3]
    height = base_from_camera[2, 3]
    ceiling = CEILINGS_M[0] ** (1 - progress) * CEILINGS_M[1] ** progress
    with np.errstate(divide="ignore"):
        down = np.where(toward_sky < 0, -1 / np.minimum(toward_sky, -1e-6), np.inf)
    far = np.minimum((height - GROUND_M) * down, 80.0)
    near = np.minimum(np.maximum(3.0, (height - ceiling) * down), 0.98 * far)
    rays = Rays(rays.directions, near.astype(np.float32), far.astype(np.float32))
    view = render(scene, rays, np.linalg.inv(observation.base_from_camera) @ base_from_camera, SAMPLES)
    above = height + toward_sky * view.composite_depth_m
    halves = [_on_canvas(view.image()), _on_canvas(_rise_colours(view, above, far >= 80.0, progress))]
    corner = ((CANVAS[0] - camera.width) // 2, (CANVAS[1] - camera.height) // 2)
    for index, half in enumerate(halves):
        signs = half.copy()
        _draw_map_signs(signs, camera, base_from_camera, corner)
        share = float(np.clip((progress - 0.9) / 0.1, 0, 1))
        halves[index] = cv2.addWeighted(half, 1 - share, signs, share, 0)
    share = _height_share(progress)
    meaning = "depth" if share == 0 else "height above the road" if share == 1 else "depth turns into height"
    titles = ("colours of the input, grey where it says nothing", meaning)
    legends = (np.full((34, CANVAS[0], 3), views.BACKGROUND, dtype=np.uint8), _rise_legend(progress))
    return even(
        np.hstack(
            [
                np.vstack([views.titled(half, title), legend])
                for half, title, legend in zip(halves, titles, legends, strict=True)
            ]
        )
    )


def _height_share(progress: float) -> float:
    """How far the colours of depth have turned into those of height."""
    return float(np.clip(1.6 * progress - 0.3, 0, 1))


def _rise_range(progress: float) -> tuple[float, float]:
    """Depths that the colours span: 3 to 80 m at first, in the end from the roof to the ground below the camera."""
    last = (TOP_HEIGHT_M - CEILINGS_M[1], TOP_HEIGHT_M - GROUND_M)
    low, high = (edge ** (1 - progress) * top**progress for edge, top in zip((3.0, 80.0), last, strict=True))
    return low, high


def _rise_legend(progress: float) -> UInt8Array:
    """(34, CANVAS width, 3): the scale of depth, which has gone before what the colours of height mean comes."""
    share = _height_share(progress)
    width = max(CANVAS[0], LEGEND_WIDTH)
    heights = np.full((34, width, 3), views.BACKGROUND, dtype=np.uint8)
    steps = np.linspace(0, 1, 100)[:, None]
    ramp = (1 - steps) * np.array(views.FREE_COLOUR) + steps * np.array(views.OCCUPIED_COLOUR)
    heights[6:16, 10:110] = np.rint(ramp)
    views.label(heights, f"free below {HIGH_M[0]:g} m, occupied above {HIGH_M[1]:g} m", (118, 15), 0.36)
    cv2.rectangle(heights, (420, 6), (434, 16), views.UNKNOWN_COLOUR, -1)
    views.label(heights, views.NOT_SEEN, (438, 15), 0.34)
    depths = views.depth_scale(width, True, *_rise_range(progress))
    shown, weight = (depths, 1 - 2 * share) if share < 0.5 else (heights, 2 * share - 1)
    blank = np.full_like(shown, views.BACKGROUND)
    return cv2.addWeighted(shown, weight, blank, 1 - weight, 0)[:, : CANVAS[0]]


def _on_canvas(picture: UInt8Array) -> UInt8Array:
    """A picture in the middle of the canvas."""
    height, width = picture.shape[:2]
    top, left = (CANVAS[1] - height) // 2, (CANVAS[0] - width) // 2
    canvas = np.full((CANVAS[1], CANVAS[0], 3), views.BACKGROUND, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = picture
    return canvas


def _rise_camera(observation: Observation, progress: float) -> tuple[Intrinsics, Float64Array]:
    """Camera and its (4, 4) base_from_camera: from the key camera to straight down, forward at the top."""
    start = film_camera(observation.key.intrinsics, CANVAS[0])
    # Its middle strip where it is taller than the canvas.
    tall = min(start.height, CANVAS[1])
    begin = (start.fx, start.fy, start.cx, start.cy - (start.height - tall) / 2)
    wide, high = TOP_WIDTH, CANVAS[1]
    focal = high / (TOP_M[1] - TOP_M[0]) * TOP_HEIGHT_M
    width, height = round(CANVAS[0] + (wide - CANVAS[0]) * progress), round(tall + (high - tall) * progress)
    # Focal lengths in pictures' widths and heights: what the change of size does comes on top.
    fx, fy = (
        size * (f / old) ** (1 - progress) * (focal / new) ** progress
        for size, f, old, new in ((width, begin[0], CANVAS[0], wide), (height, begin[1], tall, high))
    )
    cx = width * ((begin[2] + 0.5) / CANVAS[0] * (1 - progress) + 0.5 * progress) - 0.5
    cy = height * ((begin[3] + 0.5) / tall * (1 - progress) + 0.5 * progress) - 0.5
    key = observation.base_from_camera
    over = np.array([(TOP_M[0] + TOP_M[1]) / 2, 0.0, TOP_HEIGHT_M])
    behind = np.array([-8.0, 0.0, 16.0])
    pose = np.eye(4)
    pose[:3, 3] = (1 - progress) ** 2 * key[:3, 3] + 2 * progress * (1 - progress) * behind + progress**2 * over
    straight_down = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    turn, _ = cv2.Rodrigues(key[:3, :3].T @ straight_down)
    pose[:3, :3] = key[:3, :3] @ cv2.Rodrigues(turn * progress)[0]
    return Intrinsics(fx, fy, cx, cy, width, height), pose


def _rise_colours(view: NovelView, above: np.ndarray, open_end: np.ndarray, progress: float) -> UInt8Array:
    """Colours of depth turning into those of height above the road. open_end: rays that no ground ends."""
    sky = np.isposinf(view.depth_m) & open_end
    shown = np.where(sky, np.inf, view.composite_depth_m)
    depth = views.colourise_depth(shown, *_rise_range(progress)).astype(np.float32)
    level = np.clip((above - HIGH_M[0]) / (HIGH_M[1] - HIGH_M[0]), 0, 1)[..., None]
    high = (1 - level) * np.array(views.FREE_COLOUR) + level * np.array(views.OCCUPIED_COLOUR)
    share = _height_share(progress)
    seen = 1 - view.unseen[..., None]
    colours = seen * ((1 - share) * depth + share * high) + (1 - seen) * np.array(views.UNKNOWN_COLOUR)
    return np.rint(colours).astype(np.uint8)


def _draw_map_signs(picture: UInt8Array, camera: Intrinsics, pose: np.ndarray, corner: tuple[int, int]) -> None:
    """Vehicle and a bar of 10 m on the ground of the last picture."""

    def pixel(x: float, y: float) -> tuple[int, int]:
        point = pose[:3, :3].T @ (np.array([x, y, 0.0]) - pose[:3, 3])
        column, row = point[:2] / point[2] * (camera.fx, camera.fy) + (camera.cx, camera.cy)
        return round(float(column)) + corner[0], round(float(row)) + corner[1]

    views.draw_vehicle(picture, pixel(TOP_M[0] + 1.0, 0.0))
    left, right = (pixel(TOP_M[0] + 1.0, y) for y in (15.0, 5.0))
    cv2.line(picture, left, right, views.INK, 2)
    views.label(picture, "10 m", (left[0], left[1] - 6), 0.38)
