"""``kyn image``: one photo, no ROS. Writes depth, bird's-eye view and a coloured voxel mesh."""

from __future__ import annotations

import argparse
import io
import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from kyn_models import config as configuration
from kyn_models import views
from kyn_models.artifact import KITTI360_CAMERA, Artifact, forward_mount
from kyn_models.cli.model_options import add_model, add_runtime
from kyn_models.image_file import read_rgb
from kyn_models.predictor import Predictor, PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import Float64Array, Intrinsics, Observation, PosedFrame, Prediction
from kyn_models.voxel_pictures import write_mesh
from kyn_models.whole_files import write_image, write_whole

DEFAULT_FOV_DEG = 70.0
KITTI360_ASPECTS = (3.3, 3.8)
"""Width by height of KITTI-360's rectified images as recorded (1408x376) and as the papers resize them (640x192)."""
RESULTS = ("depth.png", "depth_m.npy", "birds_eye.png", "voxels.ply", "overview.png")
LABELS = "labels.png"
"""Also written where the model has classes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", type=Path, help="PNG, JPEG or another format that OpenCV reads")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the results (else PHOTO's name + _kyn, in the current folder)",
    )
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--fov", type=float, metavar="DEG", help=f"horizontal field of view (else {DEFAULT_FOV_DEG:g})")
    camera.add_argument("--kitti360", action="store_true", help="the photo is one of KITTI-360's rectified camera 00")
    camera.add_argument("--camera-info", type=Path, metavar="YAML", help="fx, fy, cx, cy, width, height in pixels")
    parser.add_argument(
        "--height", type=float, metavar="M", help="metres of the camera above the ground (else as in training)"
    )
    parser.add_argument(
        "--pitch", type=float, metavar="DEG", help="degrees that the camera looks down (else as in training)"
    )
    add_model(parser)
    add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    image = read_rgb(args.photo, "a photo")
    out = args.out or Path(args.photo.stem + "_kyn")
    keep_photo(args.photo, out)
    assumed = args.fov is None and not args.kitti360 and args.camera_info is None
    intrinsics = camera_of(args, image.shape[1], image.shape[0])
    artifact = Artifact.load(args.model)
    trained = artifact.manifest.camera
    mount = mount_of(
        trained.height_m if args.height is None else args.height,
        trained.pitch_deg if args.pitch is None else args.pitch,
    )
    predictor = make_predictor(artifact, PredictorOptions(args.runtime, precision=args.precision))
    prediction = predictor.predict(Observation((PosedFrame(image, intrinsics),), mount))
    seen = artifact.camera.seen(intrinsics)
    replaced = [name for name in (*RESULTS, LABELS) if (out / name).exists()]
    files = write_results(out, prediction, predictor, args.photo.name, seen)
    if assumed:
        print(f"no --fov given: distances assume a horizontal field of view of {DEFAULT_FOV_DEG:g} degrees")
    if not seen.all():
        print(f"grey is outside the photo: the photo shows {seen.mean():.0%} of what the model looks at")
    if predictor.frames_wanted > 1:
        print("one image: the model's mono branch answered; with posed neighbours it says more")
    instead = ", in place of earlier results" if replaced else ""
    print(f"{artifact.name} on {predictor.runtime_name}, wrote to {out}{instead}:")
    for name, text in files.items():
        print(f"  {name:16s} {text}")
    return 0


def keep_photo(photo: Path, out: Path) -> None:
    """Raise ``ValueError`` if one of the results in ``out`` would be written over the photo."""
    for name in (*RESULTS, LABELS):
        if (out / name).exists() and (out / name).samefile(photo):
            raise ValueError(
                f"{photo}: the result {name} would be written over the photo; name another folder as --out"
            )


def camera_of(args: argparse.Namespace, width: int, height: int) -> Intrinsics:
    """The photo's camera as the options say, for a photo of this size. Raises ``ValueError``."""
    if args.kitti360:
        low, high = KITTI360_ASPECTS
        if not low <= width / height <= high:
            raise ValueError(
                f"--kitti360: got a photo of {width}x{height}, expected a rectified image of KITTI-360 (1408x376, also "
                "resized as to 640x192); for other photos use --fov or --camera-info"
            )
        return KITTI360_CAMERA.resized(width, height)
    if args.camera_info is None:
        return camera_from_fov(DEFAULT_FOV_DEG if args.fov is None else args.fov, width, height)
    return camera_from_file(args.camera_info, width, height)


def camera_from_file(path: Path, width: int, height: int) -> Intrinsics:
    """The camera in a YAML file, for a photo of this size. Raises ``ValueError`` for another size, ``OSError``."""
    if path.is_file() and "model_type: MEI" in path.read_text(errors="replace"):
        raise ValueError(
            f"{path}: is the calibration of a fisheye camera (MEI), expected fx, fy, cx, cy, width, height of a "
            "pinhole camera; `kyn prepare kitti360` rectifies such images"
        )
    camera = configuration.load_yaml(Intrinsics, path)
    if (camera.width, camera.height) != (width, height):
        raise ValueError(
            f"{path}: got a camera of {camera.width}x{camera.height} pixels, expected {width}x{height} as the photo; "
            "a calibration holds for images of its own size"
        )
    return camera


def camera_from_fov(fov_deg: float, width: int, height: int) -> Intrinsics:
    """A camera with square pixels and its principal point in the middle. Raises ``ValueError``."""
    if not 5.0 <= fov_deg <= 150.0:
        raise ValueError(f"--fov: got {fov_deg}, expected 5 to 150 degrees")
    focal = width / 2 / math.tan(math.radians(fov_deg) / 2)
    return Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def mount_of(height_m: float, pitch_deg: float) -> Float64Array:
    """(4, 4) base_link from the camera, which looks straight ahead and down. Raises ``ValueError``."""
    if not 0.1 <= height_m <= 50.0:
        raise ValueError(f"--height: got {height_m}, expected 0.1 to 50 metres above the ground")
    if not -80.0 <= pitch_deg <= 80.0:
        raise ValueError(f"--pitch: got {pitch_deg}, expected -80 (up) to 80 (down) degrees")
    return forward_mount(height_m, pitch_deg)


def write_results(
    out: Path, prediction: Prediction, predictor: Predictor, title: str, seen: np.ndarray
) -> dict[str, str]:
    """Write all files into ``out``, or none, and return their names with a word about each.

    title: of the overview. seen: (height, width) bool, what of the model's image the photo shows. Raises ``OSError``.
    """
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".making-", dir=out) as scratch:
            words = _write(Path(scratch), prediction, predictor, title, seen)
            for name in words:
                os.replace(Path(scratch) / name, out / name)
    except BaseException as error:
        if new:
            shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is not None:
            error.filename, error.filename2 = str(out / Path(error.filename).name), None
        raise
    return words


def _write(folder: Path, prediction: Prediction, predictor: Predictor, title: str, seen: np.ndarray) -> dict[str, str]:
    """The same, one file after the other."""
    assert prediction.depth_m is not None
    pictures = {
        "depth.png": views.depth_picture(prediction),
        "birds_eye.png": views.birds_eye_picture(prediction, seen=seen),
        "overview.png": views.frame_picture(prediction, title, seen),
    }
    if prediction.labels is not None:
        pictures[LABELS] = views.labels_picture(prediction, seen)
    for name, picture in pictures.items():
        write_image(folder / name, picture)
    depth = io.BytesIO()
    np.save(depth, prediction.depth_m)
    write_whole(folder / "depth_m.npy", depth.getvalue())
    faces = write_mesh(folder / "voxels.ply", prediction, predictor.options.grid.occupied_above)
    finite = prediction.depth_m[np.isfinite(prediction.depth_m)]
    labelled = {LABELS: "the photo in the colours of its classes"} if LABELS in pictures else {}
    return {
        "depth.png": f"depth in colour; median {np.median(finite):.1f} m" if finite.size else "no surface in range",
        "depth_m.npy": f"float32 metres, {prediction.depth_m.shape[1]}x{prediction.depth_m.shape[0]}, +Inf sky",
        "birds_eye.png": "occupied, free, unknown from above",
        "voxels.ply": f"coloured mesh of the occupied voxels, {faces} faces",
        "overview.png": "all of it in one picture",
        **labelled,
    }
