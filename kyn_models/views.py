"""Pictures of predictions: depth in colour, bird's-eye view, voxels in 3-D. numpy and OpenCV.

All pictures are (H, W, 3) uint8 RGB. Text, scale bar, legend and ego position are part of a picture, so that it can be
read without its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kyn_models.occupancy import GridOptions, column_labels
from kyn_models.palette import UNLABELLED, class_table, present
from kyn_models.types import UNKNOWN, Intrinsics, Prediction, UInt8Array, VoxelGridSpec
from kyn_models.voxel_faces import exposed, visible_faces

BACKGROUND = (24, 26, 30)
INK = (232, 234, 238)
UNKNOWN_COLOUR = (62, 66, 74)
FREE_COLOUR = (214, 222, 226)
OCCUPIED_COLOUR = (214, 62, 52)
FRUSTUM_COLOUR = (64, 150, 255)
VEHICLE_COLOUR = (255, 196, 30)
SKY_COLOUR = (118, 172, 214)
"""No colour of depth comes near it."""
LEGEND_ROW = 24
Legend = list[tuple[str, tuple[int, int, int]]]
"""Names with their colours."""
NOT_SEEN = "outside the image"
FONT = cv2.FONT_HERSHEY_SIMPLEX
READABLE_WIDTH = 600
"""Pixels; narrower images of small models are enlarged, so that titles, scales and legends have room."""


def colourise_depth(depth_m: np.ndarray, near_m: float = 3.0, far_m: float = 80.0) -> UInt8Array:
    """(h, w) depth in metres to (h, w, 3) uint8 RGB, equal ratios of depth as equal steps: near is bright.

    +Inf (sky, beyond range) is light blue, NaN (invalid) grey.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        nearness = np.log(far_m / np.maximum(depth_m, 1e-3)) / np.log(far_m / near_m)
    level = np.rint(255 * np.clip(np.nan_to_num(nearness, nan=0.0, neginf=0.0), 0, 1)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    colours[np.isposinf(depth_m)] = SKY_COLOUR
    colours[np.isnan(depth_m)] = UNKNOWN_COLOUR
    return colours


def label(image: UInt8Array, text: str, origin: tuple[int, int], scale: float = 0.42) -> None:
    """Text with a dark rim: the same text around it, because a thicker one is wider with some versions of OpenCV."""
    for right, down in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        place = origin[0] + right, origin[1] + down
        cv2.putText(image, text, place, FONT, scale, BACKGROUND, 1, cv2.LINE_AA)
    cv2.putText(image, text, origin, FONT, scale, INK, 1, cv2.LINE_AA)


def titled(image: UInt8Array, title: str) -> UInt8Array:
    """The picture below a line with its title."""
    bar = np.full((24, image.shape[1], 3), BACKGROUND, dtype=np.uint8)
    label(bar, title, (8, 17))
    return np.vstack([bar, image])


def readable(picture: np.ndarray) -> np.ndarray:
    """(h, w, ...) at least ``READABLE_WIDTH`` wide: every pixel becomes a square of whole pixels where it is not."""
    times = -(-READABLE_WIDTH // picture.shape[1])
    return picture if times == 1 else picture.repeat(times, axis=0).repeat(times, axis=1)


def depth_picture(prediction: Prediction) -> UInt8Array:
    """The depth image in colour, with a scale from 3 to 80 m, and what grey means where there is any."""
    assert prediction.depth_m is not None
    unseen = bool(np.isnan(prediction.depth_m).any())
    picture = readable(colourise_depth(prediction.depth_m))
    return np.vstack([picture, depth_scale(picture.shape[1], unseen)])


def depth_scale(width: int, unseen: bool, low_m: float = 3.0, high_m: float = 80.0) -> UInt8Array:
    """(34, width, 3): what colours of depth mean. unseen: there is grey to be explained."""
    bar = np.full((34, width, 3), BACKGROUND, dtype=np.uint8)
    legend = [("sky or beyond", SKY_COLOUR)]
    if width >= 400 and unseen:  # else there is no room for it
        legend.append((NOT_SEEN, UNKNOWN_COLOUR))
    end = width - 130 * len(legend)
    metres = np.geomspace(low_m, high_m, end - 10)
    bar[6:16, 10:end] = colourise_depth(np.broadcast_to(metres[None], (10, metres.size)), low_m, high_m)
    for mark in (mark for mark in (3, 5, 10, 20, 40, 80) if low_m <= mark <= high_m):
        column = 10 + int(np.argmin(np.abs(metres - mark)))
        label(bar, f"{mark} m", (min(column, end - 35), 30), 0.36)
    for number, (text, colour) in enumerate(legend):
        left = end + 12 + 130 * number
        cv2.rectangle(bar, (left, 6), (left + 14, 16), colour, -1)
        label(bar, text, (left + 18, 15), 0.34)
    return bar


def input_picture(prediction: Prediction, seen: np.ndarray | None = None) -> UInt8Array:
    """The image as the model sees it; grey where the camera saw nothing and the model is given repeated borders.

    seen: (height, width) bool, None for an image that the camera saw whole.
    """
    image = readable(prediction.image)
    if seen is None or seen.all():
        return image
    seen = readable(seen)
    picture = np.where(seen[..., None], image, np.array(UNKNOWN_COLOUR, dtype=np.uint8))
    # In the widest grey strip: a photo ends at the sides or above and below.
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    if len(columns) and columns[0] >= 100:
        label(picture, NOT_SEEN, (6, 16), 0.38)
    elif len(rows) and rows[0] >= 20:
        label(picture, NOT_SEEN, (6, 15), 0.38)
    return picture


def birds_eye_picture(
    prediction: Prediction, height: int = 420, seen: np.ndarray | None = None, options: GridOptions | None = None
) -> UInt8Array:
    """The 2-D grid from above, forward up: occupied, free, unknown, the camera's frustum, the vehicle, a scale.

    Occupied cells are red, or of the colour of their class where the prediction has labels.
    seen: (image height, image width) bool, what of the model's image the camera saw; None for all of it.
    options: with which the grid was made, for the heights whose class counts.
    """
    assert prediction.grid is not None
    spec = prediction.spec
    occupied, legend = _occupied_colours(prediction, options or GridOptions())
    probability = np.clip(prediction.grid, 0, 100)[..., None] / 100.0
    blend = (1 - probability) * np.array(FREE_COLOUR) + probability * occupied
    colours = np.where((prediction.grid >= 0)[..., None], blend, np.array(UNKNOWN_COLOUR)).astype(np.uint8)
    # Rows of the grid run along y (left), columns along x (forward): forward is drawn upwards, left to the left.
    picture = np.ascontiguousarray(colours.transpose(1, 0, 2)[::-1, ::-1])
    scale = height / picture.shape[0]
    width = max(150, round(picture.shape[1] * scale))
    scale_x = width / picture.shape[1]
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)

    def pixel(x: float, y: float) -> tuple[int, int]:
        column = (spec.y_m[1] - y) / spec.resolution_m * scale_x
        row = (spec.x_m[1] - x) / spec.resolution_m * scale
        return round(column), round(row)

    _draw_frustum(picture, prediction, seen, pixel)
    ego = pixel(max(spec.x_m[0], 0.0), 0.0)
    draw_vehicle(picture, (ego[0], min(ego[1], height - 12)))
    _scale_bar(picture, 10.0 / spec.resolution_m * scale_x)
    return np.hstack([picture, _grid_legend(height, legend, prediction.label_names)])


def _occupied_colours(prediction: Prediction, options: GridOptions) -> tuple[np.ndarray, Legend]:
    """Colours of occupied cells, (ny, nx, 3) or for all the same (3,), and what the legend says of them."""
    if prediction.labels is None or prediction.volume is None or not prediction.label_names:
        return np.array(OCCUPIED_COLOUR), [("occupied", OCCUPIED_COLOUR)]
    assert prediction.grid is not None
    classes = column_labels(prediction.volume, prediction.labels, prediction.spec, options)
    names = prediction.label_names
    return class_table(names)[classes], present(classes[prediction.grid >= 50], names)


def _draw_frustum(  # type: ignore[no-untyped-def]
    picture: UInt8Array, prediction: Prediction, seen: np.ndarray | None, pixel
) -> None:
    """The outermost columns of the model's image that the camera saw, as rays."""
    k, pose = prediction.intrinsics, prediction.base_from_camera
    columns = np.arange(k.width) if seen is None else np.flatnonzero(seen.any(axis=0))
    for column in (columns[0] - 0.5, columns[-1] + 0.5) if len(columns) else ():
        ray = pose[:3, :3] @ np.array([(column - k.cx) / k.fx, 0.0, 1.0])
        ends = [pose[:2, 3] + ray[:2] * length for length in (0.0, 2 * prediction.spec.x_m[1])]
        cv2.line(picture, pixel(*ends[0]), pixel(*ends[1]), FRUSTUM_COLOUR, 1, cv2.LINE_AA)


def draw_vehicle(picture: UInt8Array, centre: tuple[int, int], heading: float = 0.0, length: int = 20) -> None:
    """The sign of the vehicle in pictures from above, in place. centre: column and row. heading: radians to the left of
    upwards. length: pixels."""
    forward = np.array([-np.sin(heading), -np.cos(heading)])
    left = np.array([-np.cos(heading), np.sin(heading)])
    parts = ((0.5, 0.0), (-0.5, 0.38), (-0.25, 0.0), (-0.5, -0.38))
    corners = np.array([centre + length * (along * forward + across * left) for along, across in parts])
    corners = np.rint(corners).astype(np.int32)
    cv2.fillPoly(picture, [corners], VEHICLE_COLOUR, cv2.LINE_AA)
    cv2.polylines(picture, [corners], True, BACKGROUND, 1, cv2.LINE_AA)


def _scale_bar(picture: UInt8Array, length: float) -> None:
    row = picture.shape[0] - 32  # above the vehicle
    cv2.line(picture, (8, row), (8 + round(length), row), INK, 2)
    label(picture, "10 m", (10, row - 6), 0.38)


def _grid_legend(height: int, occupied: Legend, names: Sequence[str]) -> UInt8Array:
    others = [("free", FREE_COLOUR), ("unknown", UNKNOWN_COLOUR)]
    rows = [*occupied[: max(1, (height - 20) // LEGEND_ROW - len(others) - 2)], *others]
    legend = _swatches(rows, height, 92, names)
    top = 14 + LEGEND_ROW * len(rows)
    border = np.array([(7, top), (14, top + 12), (21, top)], dtype=np.int32)
    cv2.polylines(legend, [border], False, FRUSTUM_COLOUR, 1, cv2.LINE_AA)
    label(legend, "frustum", (26, top + 11), 0.38)
    draw_vehicle(legend, (14, top + LEGEND_ROW + 6))
    label(legend, "vehicle", (26, top + LEGEND_ROW + 11), 0.38)
    return legend


def _swatches(rows: Legend, height: int, width: int, names: Sequence[str]) -> UInt8Array:
    """One row per name with its colour before it; at least ``width`` wide, and as wide as the longest name needs, also
    of ``names`` without a row: pictures of one film are of one width."""
    longest = max((cv2.getTextSize(text, FONT, 0.38, 1)[0][0] for text in (*names, *dict(rows))), default=0)
    legend = np.full((height, max(width, 34 + longest), 3), BACKGROUND, dtype=np.uint8)
    for index, (text, colour) in enumerate(rows):
        top = 14 + LEGEND_ROW * index
        cv2.rectangle(legend, (8, top), (20, top + 12), colour, -1)
        label(legend, text, (26, top + 11), 0.38)
    return legend


def labels_picture(prediction: Prediction, seen: np.ndarray | None = None) -> UInt8Array:
    """The image in the colours of its classes, with their names: the class of the cell in which each pixel's surface
    lies. Pixels whose surface lies beyond the grid, or in a cell without a class, stay as they are.

    seen: (height, width) bool, what of the model's image the camera saw; None for all of it.
    Raises ``ValueError`` if the prediction has no labels or no depth.
    """
    if prediction.labels is None or prediction.depth_m is None:
        raise ValueError("labels: got a prediction without labels or depth, expected one of a model that has classes")
    spec, k, pose = prediction.spec, prediction.intrinsics, prediction.base_from_camera
    v, u = np.meshgrid((np.arange(k.height) - k.cy) / k.fy, (np.arange(k.width) - k.cx) / k.fx, indexing="ij")
    depth = np.where(np.isfinite(prediction.depth_m), prediction.depth_m, 0.0)
    points = np.stack([u, v, np.ones_like(u)], axis=-1) * depth[..., None] @ pose[:3, :3].T + pose[:3, 3]
    cells = np.floor((points - np.array(spec.origin_m)) / spec.resolution_m).astype(int)
    inside = ((cells >= 0) & (cells < spec.shape[::-1])).all(axis=-1) & (depth > 0)
    x, y, z = np.moveaxis(np.where(inside[..., None], cells, 0), -1, 0)
    classes = readable(np.where(inside, prediction.labels[z, y, x], UNLABELLED).astype(np.uint8))
    colours = class_table(prediction.label_names)[classes]
    known = (classes < len(prediction.label_names))[..., None]
    image = input_picture(prediction, seen)
    picture = np.where(known, 0.35 * image + 0.65 * colours, image).astype(np.uint8)
    height = picture.shape[0]
    rows = present(classes[known[..., 0]], prediction.label_names)[: (height - 14) // LEGEND_ROW]
    return np.hstack([picture, _swatches(rows, height, 92, prediction.label_names)])


def cell_colours(
    cells: np.ndarray, spec: VoxelGridSpec, labels: np.ndarray | None, label_names: tuple[str, ...]
) -> UInt8Array:
    """(N,) flat indices of cells to (N, 3) uint8 RGB: by class, or by height where there are no labels."""
    if labels is not None and label_names:
        return class_table(label_names)[labels.reshape(-1)[cells]]
    return height_colours(spec.axes()[0], *spec.z_m)[cells // (spec.shape[1] * spec.shape[2])]


def height_colours(heights_m: np.ndarray, low_m: float = -0.4, high_m: float = 2.8) -> UInt8Array:
    """(N,) heights to (N, 3) uint8 RGB, violet low, yellow high."""
    level = np.rint(255 * np.clip((heights_m - low_m) / (high_m - low_m), 0, 1)).astype(np.uint8)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_VIRIDIS).reshape(256, 3)
    return np.ascontiguousarray(table[level, ::-1])


def orbit_camera(spec: VoxelGridSpec, width: int, height: int) -> tuple[Intrinsics, np.ndarray]:
    """A camera behind and above the vehicle: intrinsics and (4, 4) camera_from_base."""
    eye = np.array([spec.x_m[0] - 9.0, 0.0, 9.5])
    target = np.array([spec.x_m[0] + 16.0, 0.0, 0.0])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    return Intrinsics(0.8 * width, 0.8 * width, width / 2, height / 2, width, height), pose


def voxel_picture(
    prediction: Prediction, occupied_above: float = 0.65, width: int = 640, height: int = 420
) -> UInt8Array:
    """The occupied voxels as shaded cubes, seen from behind and above the vehicle, coloured by class or by height."""
    assert prediction.volume is not None
    spec, labels, names = prediction.spec, prediction.labels, prediction.label_names
    solid = (prediction.volume != UNKNOWN) & (prediction.volume > 254.0 * occupied_above)
    text = f"height {spec.z_m[0]:.1f} m (violet) to {spec.z_m[1]:.1f} m (yellow), rings every 10 m"
    legend = np.empty((height, 0, 3), dtype=np.uint8)
    if labels is not None and names:
        text = "colours by class, rings every 10 m"
        rows = present(labels[exposed(solid)], names)[: (height - 14) // LEGEND_ROW]
        legend = _swatches(rows, height, 0, names)
    picture = np.full((height, width - legend.shape[1], 3), BACKGROUND, dtype=np.uint8)
    camera, camera_from_base = orbit_camera(spec, picture.shape[1], height)
    _draw_ground(picture, spec, camera, camera_from_base)
    faces, shades, cells = visible_faces(solid, spec, -camera_from_base[:3, :3].T @ camera_from_base[:3, 3])
    corners = faces @ camera_from_base[:3, :3].T + camera_from_base[:3, 3]
    keep = (corners[..., 2] > 1.0).all(axis=1)
    corners, shades, cells = corners[keep], shades[keep], cells[keep]
    colours = np.rint(cell_colours(cells, spec, labels, names) * shades[:, None]).astype(int).tolist()
    pixels = corners[..., :2] / corners[..., 2:] * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    pixels = np.rint(pixels).astype(np.int32)
    for index in np.argsort(-corners[..., 2].mean(axis=1)):
        cv2.fillConvexPoly(picture, pixels[index], colours[index])
    label(picture, text, (8, 16))
    return np.hstack([picture, legend])


def _draw_ground(picture: UInt8Array, spec: VoxelGridSpec, camera: Intrinsics, camera_from_base: np.ndarray) -> None:
    outline = [(spec.x_m[a], spec.y_m[b]) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    lines = [np.array([outline[i], outline[(i + 1) % 4]]) for i in range(4)]
    angles = np.linspace(-1.3, 1.3, 60)
    lines += [radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1) for radius in range(10, 50, 10)]
    lines.append(np.array([(0.0, -0.9), (4.0, 0.0), (0.0, 0.9)]))
    for number, line in enumerate(lines):
        inside = (line[:, 1] >= spec.y_m[0] - 1e-6) & (line[:, 1] <= spec.y_m[1] + 1e-6)
        points = np.concatenate([line[inside], np.zeros((inside.sum(), 1))], axis=1)
        points = points @ camera_from_base[:3, :3].T + camera_from_base[:3, 3]
        pixels = points[:, :2] / points[:, 2:] * (camera.fx, camera.fy) + (camera.cx, camera.cy)
        colour = VEHICLE_COLOUR if number == len(lines) - 1 else UNKNOWN_COLOUR
        cv2.polylines(picture, [np.rint(pixels).astype(np.int32)], False, colour, 1, cv2.LINE_AA)


def frame_picture(prediction: Prediction, title: str, seen: np.ndarray | None = None) -> UInt8Array:
    """Input, depth, bird's-eye view and voxels of one frame in one picture; even width and height, as video needs.

    seen: (height, width) bool, what of the model's image the camera saw; None for all of it.
    """
    image, depth = input_picture(prediction, seen), depth_picture(prediction)
    left = np.vstack([titled(image, f"input  {title}"), titled(depth, "depth along the optical axis")])
    body = left.shape[0] - 24
    birds_eye = titled(birds_eye_picture(prediction, body, seen), "occupancy from above")
    voxels = titled(voxel_picture(prediction, height=body), "occupied voxels")
    picture = np.hstack([left, birds_eye, voxels])
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
