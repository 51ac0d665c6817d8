"""``kyn prepare realestate10k``: frames of RealEstate10K from its videos, by the times of its camera files."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from kyn_models.cli.prepare import processes, progress, rows_columns, to_be_continued


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn prepare realestate10k``."""
    parser.add_argument("--cameras", type=Path, required=True, metavar="DIR", help="the data set's camera files (.txt)")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="videos by their ids: <id>.mp4")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--size", default="384x256", metavar="WIDTHxHEIGHT", help="of the frames (else 384x256)")
    parser.add_argument("--download", action="store_true", help="fetch missing videos with the program yt-dlp")
    parser.add_argument("--retry", action="store_true", help="try again what an earlier run could not download")
    parser.add_argument("--discard-videos", action="store_true", help="remove a downloaded video after its frames")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (else one per core)")


def run(args: argparse.Namespace) -> int:
    """Run ``kyn prepare realestate10k``; raises ValueError or OSError with one sentence for what the user can mend."""
    import av  # noqa: F401 - missing, it is said before the work begins

    from kyn_models.data.realestate10k_prepare import FAILED, Recipe, plan, prepare

    workers = processes(args.workers)
    recipe = Recipe(args.out, args.videos, rows_columns(args.size), args.download, not args.discard_videos)
    videos = plan(args.cameras, recipe, args.retry)
    sequences = sum(len(video.sequences) for video in videos)
    print(f"{len(videos)} videos of {sequences} sequences, with {workers} process(es)", flush=True)
    started = time.perf_counter()
    with to_be_continued():
        made = prepare(videos, recipe, workers, progress(len(videos), "videos"))
    print(
        f"{made.written} videos taken apart in {time.perf_counter() - started:.1f} s, {made.kept} were done already, "
        f"{len(made.faults)} failed" + (f" and are named in {args.out / FAILED}" if made.faults else "")
    )
    return 0
