"""``kyn image``: one photo, no ROS. Writes depth, bird's-eye view and a coloured voxel mesh."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import cv2
import numpy as np

from kyn_models import views
from kyn_models.artifact import Artifact, default_artifact, forward_mount
from kyn_models.image_file import read_rgb
from kyn_models.ply import write_voxel_mesh
from kyn_models.predictor import Predictor
from kyn_models.runtimes import NAMES
from kyn_models.types import Float64Array, Intrinsics, Observation, PosedFrame, Prediction

DEFAULT_FOV_DEG = 70.0
RESULTS = ("depth.png", "depth_m.npy", "birds_eye.png", "voxels.ply", "overview.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", type=Path, help="PNG, JPEG or another format that OpenCV reads")
    parser.add_argument("--out", type=Path, help="folder for the results (default: PHOTO's name + _kyn, beside it)")
    parser.add_argument("--fov", type=float, metavar="DEG", help=f"horizontal field of view (else {DEFAULT_FOV_DEG:g})")
    parser.add_argument("--height", type=float, metavar="M", help="camera above the ground (else as in training)")
    parser.add_argument("--pitch", type=float, metavar="DEG", help="camera below the horizon (else as in training)")
    parser.add_argument("--model", type=Path, default=default_artifact(), help="model artifact (else the shipped one)")
    parser.add_argument("--runtime", choices=NAMES, default="auto", help="what runs the network (else auto)")


def run(args: argparse.Namespace) -> int:
    image = read_rgb(args.photo, "a photo")
    out = args.out or args.photo.with_name(args.photo.stem + "_kyn")
    keep_photo(args.photo, out)
    fov = DEFAULT_FOV_DEG if args.fov is None else args.fov
    intrinsics = camera_from_fov(fov, image.shape[1], image.shape[0])
    artifact = Artifact.load(args.model)
    trained = artifact.manifest.camera
    mount = mount_of(
        trained.height_m if args.height is None else args.height,
        trained.pitch_deg if args.pitch is None else args.pitch,
    )
    predictor = Predictor(artifact, args.runtime)
    prediction = predictor.predict(Observation((PosedFrame(image, intrinsics),), mount))
    seen = artifact.camera.seen(intrinsics)
    files = write_results(out, prediction, predictor, args.photo.name, seen)
    if args.fov is None:
        print(f"no --fov given: distances assume a horizontal field of view of {fov:g} degrees")
    if not seen.all():
        print(f"grey is outside the photo: the photo shows {seen.mean():.0%} of what the model looks at")
    print(f"{artifact.name} on {predictor.runtime_name}, wrote to {out}:")
    for name, text in files.items():
        print(f"  {name:16s} {text}")
    return 0


def keep_photo(photo: Path, out: Path) -> None:
    """Raise ``ValueError`` if one of the results in ``out`` would be written over the photo."""
    for name in RESULTS:
        if (out / name).exists() and (out / name).samefile(photo):
            raise ValueError(
                f"{photo}: the result {name} would be written over the photo; name another folder as --out"
            )


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
    """Write all files into ``out`` and return their names with a word about each.

    title: of the overview. seen: (height, width) bool, what of the model's image the photo shows.
    """
    assert prediction.depth_m is not None and prediction.volume is not None
    out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "depth.png": views.depth_picture(prediction),
        "birds_eye.png": views.birds_eye_picture(prediction, seen=seen),
        "overview.png": views.frame_picture(prediction, title, seen),
    }
    for name, picture in pictures.items():
        cv2.imwrite(str(out / name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    np.save(out / "depth_m.npy", prediction.depth_m)
    faces = write_voxel_mesh(out / "voxels.ply", prediction.volume, prediction.spec, predictor.grid.occupied_above)
    finite = prediction.depth_m[np.isfinite(prediction.depth_m)]
    return {
        "depth.png": f"depth in colour; median {np.median(finite):.1f} m" if finite.size else "no surface in range",
        "depth_m.npy": f"float32 metres, {prediction.depth_m.shape[1]}x{prediction.depth_m.shape[0]}, +Inf sky",
        "birds_eye.png": "occupied, free, unknown from above",
        "voxels.ply": f"coloured mesh of the occupied voxels, {faces} faces",
        "overview.png": "all of it in one picture",
    }
