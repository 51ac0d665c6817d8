"""``kyn video``: a sequence, flights through what one image says, or the rise from its depth map to a view from above.

Frames come from a drive in KITTI-360's layout (synthetic drives as well) or from a folder of photos.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kyn_models import camera_paths, film, views
from kyn_models.artifact import Artifact
from kyn_models.cli import interrupt
from kyn_models.cli.eval import check_writable, say_left_out, timed_progress
from kyn_models.cli.image import DEFAULT_FOV_DEG, camera_from_file, camera_from_fov, mount_of
from kyn_models.cli.left_out import counted
from kyn_models.cli.model_options import add_model, add_runtime
from kyn_models.cli.unused import refuse
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.neighbours import kitti360_sample
from kyn_models.image_file import read_rgb
from kyn_models.novel_view import Scene
from kyn_models.predictor import Predictor, PredictorOptions
from kyn_models.predictors import make_predictor, require_density
from kyn_models.types import Observation, PosedFrame, UInt8Array
from kyn_models.video import write_video

MODES = ("sequence", "flight", "transition")
PHOTOS = (".png", ".jpg", ".jpeg")
VIDEOS = (".mp4", ".mkv", ".mov")
DEFAULT_PICTURES = 48
DEFAULT_PATHS = ("sideways", "forward", "circle")
OF_MODES = {
    "sequence": ("start", "stop", "every", "strict"),
    "flight": ("frame", "path", "pictures"),
    "transition": ("frame", "pictures"),
}
OF_SOURCES = {"data": ("drive", "camera"), "images": ("fov", "camera-info", "height", "pitch")}
"""Options that only some modes and sources use."""


class Frames(NamedTuple):
    """numbers: of the frames, in their order. read: a frame's name and observation by its number."""

    numbers: tuple[int, ...]
    read: Callable[[int], tuple[str, Observation]]


class Film(NamedTuple):
    """total: how many pictures there will be, for the progress. left_out: gets why a frame has none."""

    total: int
    pictures: Iterable[UInt8Array]
    left_out: Sequence[str] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "mode",
        choices=MODES,
        help="depth and bird's-eye view of a sequence; flights through one frame; from depth map to bird's-eye view",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="KITTI-360 folder in its official layout")
    source.add_argument("--images", type=Path, metavar="DIR", help="folder of photos of one camera, in order of names")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the video, .mp4")
    parser.add_argument("--drive", help="drive, where DIR holds several")
    parser.add_argument("--camera", choices=("00", "01"), help="KITTI-360 camera (else 00, the left one)")
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument(
        "--fov", type=float, metavar="DEG", help=f"photos: horizontal field of view (else {DEFAULT_FOV_DEG:g})"
    )
    camera.add_argument(
        "--camera-info", type=Path, metavar="YAML", help="photos: fx, fy, cx, cy, width, height in pixels"
    )
    parser.add_argument(
        "--height", type=float, metavar="M", help="photos: metres of the camera above the ground (else as in training)"
    )
    parser.add_argument(
        "--pitch", type=float, metavar="DEG", help="photos: degrees that the camera looks down (else as in training)"
    )
    parser.add_argument("--start", type=int, metavar="FRAME", help="sequence: first frame (photos count from 0)")
    parser.add_argument("--stop", type=int, metavar="FRAME", help="sequence: last frame")
    parser.add_argument("--every", type=int, metavar="N", help="sequence: only every N-th frame (else all)")
    parser.add_argument(
        "--strict",
        action="store_true",
        default=None,
        help="sequence: a frame that cannot be read is an error (else left out)",
    )
    parser.add_argument("--frame", type=int, metavar="FRAME", help="flight, transition: which one (else the first)")
    parser.add_argument(
        "--path",
        nargs="+",
        metavar="PATH",
        help=f"flight: {', '.join(camera_paths.PATHS)} (else {' '.join(DEFAULT_PATHS)}), or a file with one pose per "
        "line, 12 or 16 numbers, or .npy of shape (N, 4, 4) or (N, 3, 4): the novel camera in the key camera's axes (x "
        "right, y down, z forward, metres)",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        metavar="N",
        help=f"flight, transition: per path or rise (else {DEFAULT_PICTURES})",
    )
    parser.add_argument("--rate", type=int, metavar="HZ", help="pictures per second (else 10, flights and rise 16)")
    add_model(parser)
    add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    import av  # noqa: F401 - missing, it is said before the work

    _refuse_unused(args)
    rate = args.rate if args.rate is not None else 10 if args.mode == "sequence" else 16
    for name, value, least in (("every", args.every, 1), ("pictures", args.pictures, 2), ("rate", rate, 1)):
        if value is not None and value < least:
            raise ValueError(f"--{name}: got {value}, expected at least {least}")
    if args.out.suffix.lower() not in VIDEOS:
        raise ValueError(f"--out: got {args.out.name}, expected a name that ends in {', '.join(VIDEOS)}")
    check_writable(args.out)
    artifact = Artifact.load(args.model)
    if args.mode != "sequence":
        require_density(artifact, f"kyn video {args.mode}")
    predictor = make_predictor(artifact, PredictorOptions(args.runtime, precision=args.precision))
    frames = photos(args, artifact) if args.images else drive_frames(args, predictor.frames_wanted)
    made = (sequence if args.mode == "sequence" else views_of_one)(args, frames, predictor)
    handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        count = write_video(args.out, _shown(made), rate)
    finally:
        signal.signal(signal.SIGTERM, handler)
    say_left_out((), made.left_out)
    if args.images and args.fov is None and args.camera_info is None:
        print(f"no --fov given: distances assume a horizontal field of view of {DEFAULT_FOV_DEG:g} degrees")
    print(f"{args.out}: {counted(count, 'picture')} at {rate} per second; {artifact.name} on {predictor.runtime_name}")
    return 0


def _refuse_unused(args: argparse.Namespace) -> None:
    source = "data" if args.data else "images"
    for chosen, table, words in ((args.mode, OF_MODES, args.mode), (source, OF_SOURCES, f"--{source}")):
        others = dict.fromkeys(name for names in table.values() for name in names if name not in table[chosen])
        refuse(args, others, words)


def _shown(made: Film) -> Iterator[UInt8Array]:
    print(f"making {counted(made.total, 'picture')}", file=sys.stderr, flush=True)
    show = timed_progress(made.total)
    for done, picture in enumerate(made.pictures, start=1):
        yield picture
        show(done + len(made.left_out), "pictures")


def drive_frames(args: argparse.Namespace, frames_wanted: int) -> Frames:
    """The frames of a drive by their numbers, with as many neighbours as a model wants."""
    drive = Kitti360(args.data, args.drive, args.camera or "00")

    def read(frame: int) -> tuple[str, Observation]:
        sample = kitti360_sample(drive, frame, frames_wanted)
        return sample.name, sample.observation

    return Frames(drive.frames, read)


def photos(args: argparse.Namespace, artifact: Artifact) -> Frames:
    """The photos of a folder, counted from 0. Raises ``FileNotFoundError`` for a folder without any."""
    if not args.images.is_dir():
        raise FileNotFoundError(f"{args.images}: no such folder, expected a folder of photos")
    files = sorted(path for path in args.images.iterdir() if path.suffix.lower() in PHOTOS)
    if not files:
        raise FileNotFoundError(f"{args.images}: got no photo, expected files that end in {', '.join(PHOTOS)}")
    trained, fov = artifact.manifest.camera, DEFAULT_FOV_DEG if args.fov is None else args.fov
    height = trained.height_m if args.height is None else args.height
    mount = mount_of(height, trained.pitch_deg if args.pitch is None else args.pitch)

    def read(index: int) -> tuple[str, Observation]:
        image = read_rgb(files[index], "a photo")
        size = image.shape[1], image.shape[0]
        camera = camera_from_file(args.camera_info, *size) if args.camera_info else camera_from_fov(fov, *size)
        return files[index].name, Observation((PosedFrame(image, camera),), mount)

    return Frames(tuple(range(len(files))), read)


def sequence(args: argparse.Namespace, frames: Frames, predictor: Predictor) -> Film:
    """Input, depth, bird's-eye view and voxels of each frame.

    One that cannot be read is left out, without ``--strict`` and as long as there is another.
    """
    first = frames.numbers[0] if args.start is None else args.start
    last = frames.numbers[-1] if args.stop is None else args.stop
    chosen = [number for number in frames.numbers if first <= number <= last][:: args.every or 1]
    if not chosen:
        raise ValueError(
            f"--start, --stop: got {first} to {last}, expected a range with frames; there are {len(frames.numbers)} "
            f"from {frames.numbers[0]} to {frames.numbers[-1]}"
        )

    damaged: list[str] = []

    def pictures() -> Iterator[UInt8Array]:
        for number in chosen:
            try:
                name, observation = frames.read(number)
            except (ValueError, OSError) as error:
                damaged.append(str(error))
                if args.strict:
                    raise
                if len(damaged) == len(chosen):
                    raise ValueError(f"{error}, and none of the {len(chosen)} frames could be read") from error
                continue
            prediction = predictor.predict(observation)
            seen = predictor.artifact.camera.seen(observation.key.intrinsics)
            yield views.frame_picture(prediction, name, seen)

    return Film(len(chosen), pictures(), damaged)


def views_of_one(args: argparse.Namespace, frames: Frames, predictor: Predictor) -> Film:
    """Flights or the rise, from one frame."""
    number = frames.numbers[0] if args.frame is None else args.frame
    if number not in frames.numbers:
        raise ValueError(
            f"--frame: got {number}, expected one of the {len(frames.numbers)} frames from {frames.numbers[0]} to "
            f"{frames.numbers[-1]} that have an image and a pose"
        )
    observation, pictures = frames.read(number)[1], args.pictures or DEFAULT_PICTURES
    colours = film.key_source(observation, film.film_camera(observation.key.intrinsics))
    scene = Scene.of(predictor, observation, (colours,))
    if args.mode == "transition":
        return Film(film.rise_pictures(pictures), film.rise(scene, observation, pictures))
    paths = {Path(name).stem: poses_of(name, pictures) for name in args.path or DEFAULT_PATHS}
    flown = (picture for name, poses in paths.items() for picture in film.flight(scene, observation, poses, name))
    return Film(sum(len(poses) for poses in paths.values()), flown)


def poses_of(name: str, pictures: int) -> np.ndarray:
    """(n, 4, 4) of a built-in path, or of a file. Raises ``ValueError`` for neither."""
    if name in camera_paths.PATHS:
        return camera_paths.PATHS[name](pictures)
    if not Path(name).is_file():
        raise ValueError(f"--path: got {name}, expected {', '.join(camera_paths.PATHS)} or a file of poses")
    return camera_paths.read_path(name)
