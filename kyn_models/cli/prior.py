"""``kyn prior``: what streets look like on average, as a file that ``kyn eval --model`` takes in place of a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kyn_models.cli.left_out import counted
from kyn_models.data import street_prior
from kyn_models.data.street_cache import CacheConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, help="file to write, ending in .npz")
    parser.add_argument(
        "--frames", type=int, default=2000, metavar="N", help="synthetic frames it rests on (else 2000)"
    )
    parser.add_argument(
        "--seed", type=int, default=CacheConfig().first_seed, help="seed of the first street (else as in training)"
    )


def run(args: argparse.Namespace) -> int:
    if args.out.suffix != ".npz":
        raise ValueError(f"{args.out}: expected a name that ends in .npz")
    if args.frames < 1 or args.seed < 0:
        raise ValueError(f"--frames, --seed: got {args.frames} and {args.seed}, expected at least 1 and at least 0")
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"{args.out.parent}: no such folder; make it first")

    def progress(done: int) -> None:
        if done % 20 == 0 or done == args.frames:
            end = "\r" if sys.stderr.isatty() and done < args.frames else "\n"
            print(f"frame {done} of {args.frames}", end=end, file=sys.stderr, flush=True)

    street_prior.fit(args.frames, CacheConfig(per_street=2, first_seed=args.seed), progress).save(args.out)
    print(f"{args.out}: prior of {counted(args.frames, 'synthetic frame')}")
    return 0
