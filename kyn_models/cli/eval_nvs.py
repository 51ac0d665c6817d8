"""``kyn eval nvs``: PSNR, SSIM and LPIPS of second views, as a table and per frame as CSV."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kyn_models import evaluate_nvs, ranks
from kyn_models.artifact import Artifact
from kyn_models.cli import eval as shared
from kyn_models.cli.left_out import counted
from kyn_models.cli.model_options import add_model, add_runtime
from kyn_models.cli.unused import refuse
from kyn_models.data.kitti360 import Kitti360, open_split
from kyn_models.data.kitti_raw_split import KittiRawSplit
from kyn_models.data.realestate10k import RealEstate10k
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor, require_density
from kyn_models.types import Sample

OPTIONS = {
    "kitti360": evaluate_nvs.NvsOptions(640, 192),
    "kitti_raw": evaluate_nvs.NvsOptions(384, 128),
    "realestate10k": evaluate_nvs.NvsOptions(384, 256, samples=48),
    "streets": evaluate_nvs.NvsOptions(640, 192),
}
"""Published size and samples of each data set."""
HELD_OUT_SEED, HELD_OUT_FRAMES = 910_000, 20
OF_LAYOUTS = {
    "kitti360": ("data", "drive", "camera", "split"),
    "kitti_raw": ("data", "split", "poses"),
    "realestate10k": ("data", "split"),
    "streets": ("seed", "frames"),
}
"""Options that only some data sets use."""
PUBLISHED_INPUT = ("kitti_raw", "realestate10k")
"""Data sets of the published table: its models get the whole image, resized."""
REALESTATE10K_OFFSET = 5
"""The frame to be synthesised is so many frames later, as in the authors' validation: their evaluator, given more than
two frames a sample, takes the one so many frames earlier, which the published list's first frames do not have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data set folder in its official layout (not for streets)"
    )
    parser.add_argument(
        "--layout",
        choices=tuple(OPTIONS),
        default="kitti360",
        help="data set of DIR (else kitti360); streets are made, they need no DIR",
    )
    add_model(parser)
    parser.add_argument("--drive", help="KITTI-360: drive, where DIR holds several")
    parser.add_argument(
        "--camera",
        choices=("00", "01"),
        help="KITTI-360: camera that the model gets (else 00, the left one)",
    )
    parser.add_argument("--split", type=Path, metavar="FILE", help="published frame list; KITTI raw needs one")
    parser.add_argument(
        "--poses", type=Path, metavar="DIR", help="KITTI raw: poses, <date>/<drive>.txt (else from oxts)"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th frame (else all)")
    parser.add_argument(
        "--offset",
        type=int,
        metavar="N",
        help="the view N frames later by the same camera (else the stereo partner; RealEstate10K: 5)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help=f"streets: first seed (else {HELD_OUT_SEED}, never trained on)"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help=f"streets: how many, one per street (else {HELD_OUT_FRAMES})"
    )
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="compare pictures of that size (else as published)")
    parser.add_argument("--samples", type=int, metavar="N", help="samples per ray (else as published)")
    parser.add_argument(
        "--input",
        choices=("auto", "published", "warped"),
        default="auto",
        help="what the model gets. published: the whole image resized, needs torch; warped: what a robot gives it, "
        "warped to the training camera (else auto: published on KITTI raw and RealEstate10K, for models trained on "
        "images of such a camera)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="a frame whose files are missing or damaged is an error (else left out)"
    )
    parser.add_argument("--lpips", type=Path, metavar="FILE", help="learned weights of LPIPS 0.1, alex.pth or vgg.pth")
    parser.add_argument(
        "--lpips-backbone", type=Path, metavar="FILE", help="torchvision's AlexNet or VGG-16 weights for it"
    )
    add_runtime(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the scores of each frame")


def run(args: argparse.Namespace) -> int:
    shared.check_common(args)
    own = OF_LAYOUTS[args.layout]
    refuse(args, dict.fromkeys(n for names in OF_LAYOUTS.values() for n in names if n not in own), args.layout)
    options = options_of(args)
    artifact = Artifact.load(args.model)
    require_density(artifact, "kyn eval nvs")
    samples, missing = samples_of(args)
    distance = _lpips(args)
    name, model = _model(args, artifact, samples)
    models: dict[str, evaluate_nvs.ViewModel] = {name: model}
    if args.layout == "streets":
        models["true depth of the input"] = evaluate_nvs.TrueDepthViews()
    models["the input, not moved"] = evaluate_nvs.UnmovedViews()
    chosen = range(0, len(samples), args.every)
    rows, damaged = shared.scored(
        len(chosen),
        lambda index: samples[chosen[index]],
        lambda sample: evaluate_nvs.score_views(models, sample, options, distance),
        args.strict,
    )
    if not ranks.first():
        return 0
    frames = len(rows) // len(models)
    print(f"novel views, {counted(frames)} at {options.width}x{options.height}, 5 % left out at each edge")
    shared.say_left_out(missing, damaged)
    table = []
    for answer in models:
        scores = evaluate_nvs.mean_nvs(rows, answer)
        lpips = f"{scores.lpips:.4f}" if distance else "not computed"
        table.append((answer, [f"{scores.psnr:.3f}", f"{scores.ssim:.4f}", lpips]))
    shared.print_table(["PSNR", "SSIM", "LPIPS"], table)
    print("PSNR in dB; SSIM in windows of 7x7; LPIPS needs weight files, see --lpips")
    if args.csv:
        header = ["frame", "answer", *evaluate_nvs.NvsScores._fields]
        shared.write_csv(args.csv, header, ([row.frame, row.answer, *row.scores] for row in rows))
    return 0


def _model(args: argparse.Namespace, artifact: Artifact, samples: shared.Samples) -> tuple[str, evaluate_nvs.ViewModel]:
    """How to call the model, and the model, given images as asked for."""
    usual = args.input == "auto" and args.layout in PUBLISHED_INPUT
    like = usual and shared.same_kind(artifact.manifest.camera.source, shared.first_camera(samples))
    if args.input == "published" or like:
        from kyn_models.published_rays import PublishedRays

        shared.require_no_runtime(args, "--input warped")
        rays = PublishedRays(artifact, shared.torch_device())
        return f"{artifact.name}, image resized to {rays.width}x{rays.height}", rays
    predictor = make_predictor(artifact, PredictorOptions(args.runtime, precision=args.precision))
    name = f"{artifact.name} on {predictor.runtime_name} {predictor.precision}, image warped to the training camera"
    return name, evaluate_nvs.PredictorViews(predictor)


def options_of(args: argparse.Namespace) -> evaluate_nvs.NvsOptions:
    """The published options of the data set, changed as asked for. Raises ``ValueError``."""
    if args.offset == 0:
        raise ValueError("--offset: got 0, expected another frame than the one that the model gets")
    options = OPTIONS[args.layout]
    if args.samples is not None:
        if args.samples < 2:
            raise ValueError(f"--samples: got {args.samples}, expected at least 2")
        options = replace(options, samples=args.samples)
    if args.size is not None:
        words = args.size.lower().split("x")
        if len(words) != 2 or not all(word.isdecimal() for word in words):
            raise ValueError(f"--size: got {args.size}, expected WIDTHxHEIGHT, for example 640x192")
        options = replace(options, width=int(words[0]), height=int(words[1]))
    return options


def samples_of(args: argparse.Namespace) -> tuple[shared.Samples, tuple[str, ...]]:
    """The frames of the chosen data set, each with the view to be synthesised; a sentence for every split line that is
    left out. Raises as the readers do."""
    if args.layout == "streets":
        return _streets(args), ()
    if args.data is None:
        raise ValueError(f"--data: got none, expected the folder of {args.layout}")
    if args.layout == "kitti360":
        return _kitti360(args)
    found = _kitti_raw(args) if args.layout == "kitti_raw" else _realestate10k(args)
    return found, found.missing


def _streets(args: argparse.Namespace) -> shared.Samples:
    from kyn_models.data.streets import Streets, StreetsOptions

    frames = HELD_OUT_FRAMES if args.frames is None else args.frames
    if frames < 1:
        raise ValueError(f"--frames: got {frames}, expected at least 1")
    seed = HELD_OUT_SEED if args.seed is None else args.seed
    view = ("01", 0) if args.offset is None else ("00", args.offset)
    return Streets(StreetsOptions(frames, frames_per_street=1, first_seed=seed, views=(view,)))


def _kitti360(args: argparse.Namespace) -> tuple[shared.Samples, tuple[str, ...]]:
    if args.split is None:
        camera = args.camera or "00"
        partner = "01" if camera == "00" else "00"
        view = (partner, 0) if args.offset is None else (camera, args.offset)
        return Kitti360(args.data, args.drive, camera, views=(view,)), ()
    refuse(args, ("drive", "camera"), "--split, which names its frames itself,")
    left_view = ("01", 0) if args.offset is None else ("00", args.offset)
    readers = open_split(args.data, args.split, views=(left_view,), strict=args.strict)
    missing = tuple(sentence for reader in readers for sentence in reader.missing)
    found = Joined(readers)
    if not len(found):
        raise FileNotFoundError(f"{missing[0]}, and none of the {len(missing)} lines is whole here")
    return found, missing


def _kitti_raw(args: argparse.Namespace) -> KittiRawSplit:
    if args.split is None:
        raise ValueError("--split: got none, expected a frame list of KITTI raw (published: Tulsiani's test_files.txt)")
    view = ("other", 0) if args.offset is None else ("same", args.offset)
    return KittiRawSplit(args.data, args.split, args.poses, views=(view,), depth=False, strict=args.strict)


def _realestate10k(args: argparse.Namespace) -> RealEstate10k:
    offset = REALESTATE10K_OFFSET if args.offset is None else args.offset
    return RealEstate10k(args.data, args.split, views=(offset,), strict=args.strict)


class Joined:
    """Several readers as one."""

    def __init__(self, readers: Sequence[shared.Samples]) -> None:
        self._places = [(reader, index) for reader in readers for index in range(len(reader))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        reader, place = self._places[index]
        return reader[place]


def _lpips(args: argparse.Namespace) -> Callable | None:
    if args.lpips is None:
        if args.lpips_backbone is not None:
            raise ValueError("--lpips-backbone: got no --lpips, expected the file of the learned weights as well")
        return None
    from kyn_models.networks.lpips import load_lpips

    return load_lpips(args.lpips, args.lpips_backbone).distance
