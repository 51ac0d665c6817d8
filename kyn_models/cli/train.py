"""``kyn train``: a configuration file to a model artifact. Stops and goes on where it stopped."""

from __future__ import annotations

import argparse
import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kyn_models import config as configuration
from kyn_models import ranks
from kyn_models.cli import interrupt
from kyn_models.loop import BEST, LAST

if TYPE_CHECKING:
    from kyn_models.recipe import TrainConfig

PAUSED = 3
"""Exit code of a training that is not finished and was not disturbed."""

OF_A_TRAINING = (LAST, BEST, "curves", "streets", "artifact")
"""What a training leaves in its folder, from the first street on."""
ENDING = (signal.SIGINT, signal.SIGTERM)

ABOUT = """
examples:
  kyn train config/train/bts_streets_lite0.yaml runs/streets
  kyn train config/train/bts_kitti360.yaml runs/kitti360 --device cuda
  torchrun --nproc_per_node=2 --max-restarts=3 -m kyn_models.cli train config/train/bts_kitti360.yaml runs/kitti360

The same command goes on where it stopped, bit for bit. Processes of torchrun share every step's batch (the
configuration says how many images it has in all), so that with loop.norms: kept their number changes speed and not the
result; where one dies, torchrun starts all again and they go on from the last checkpoint.

Exit codes: 0 all steps are done and the artifact is written; 3 paused, for --minutes are over, or SIGTERM or Ctrl-C
came: last.pt holds the step that was running, the same command goes on; 2 as for all commands; 130 stopped at once, by
a second Ctrl-C or before the first step. Under torchrun a pause is 0, as it takes any other code for a process that
died: there, artifact/ tells whether all is done.

OUT holds last.pt and best.pt (checkpoints), curves/ (for TensorBoard), what is rendered or stored once, and in the
end artifact/: the best model, for `kyn eval`, `kyn image` and the nodes. A folder of other files is refused.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = ABOUT, argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", type=Path, help="YAML file, such as config/train/bts_streets_lite0.yaml")
    parser.add_argument("out", type=Path, help="folder for checkpoints, curves and the artifact")
    parser.add_argument(
        "--streets", type=Path, metavar="DIR", help="where rendered streets and stored views lie (else OUT/streets)"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="pause after so many, with exit code 3 (else as configured)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (else cpu)")


def require_own_folder(out: Path, config: Path) -> None:
    """Raise ``FileExistsError`` for a folder of other files: new or empty ones and those of a training are right.

    The configuration may lie in it, and a log that was just begun and is empty.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: is a file, expected a folder for the training; name another one")
    if not out.is_dir() or any((out / name).exists() for name in OF_A_TRAINING):
        return
    allowed = config.resolve()
    others = [
        path for path in out.iterdir() if path.resolve() != allowed and not (path.is_file() and not path.stat().st_size)
    ]
    if others:
        raise FileExistsError(
            f"{out}: holds files of no training of kyn, such as {min(others).name}, expected a new or empty folder or "
            "one of an earlier training; name another one"
        )


def run(args: argparse.Namespace) -> int:
    import torch

    from kyn_models import recipe

    config = configuration.load_yaml(recipe.TrainConfig, args.config)
    require_own_folder(args.out, args.config)
    if args.minutes is not None:
        config = replace(config, loop=replace(config.loop, minutes=args.minutes))
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here, expected one; leave it out to train on the CPU")
    # Light that hardly passes gives denormal numbers, which made a step three times slower on a CPU.
    torch.set_flush_denormal(True)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("kyn_models").setLevel(logging.INFO)
    ranks.quieten()
    handlers = {number: signal.signal(number, interrupt) for number in ENDING}
    try:
        return _train(config, args)
    except KeyboardInterrupt:
        begins = f"goes on from {args.out / LAST}" if (args.out / LAST).is_file() else "begins with the first step"
        _say(f"stopped: the same command {begins}; what was rendered and stored until now is used again")
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        ranks.leave()


def _train(config: TrainConfig, args: argparse.Namespace) -> int:
    from kyn_models import recipe

    task = recipe.make_task(config, args.streets or args.out / "streets")
    trainer = recipe.make_trainer(config, task, args.out, args.device)
    if trainer.resume():
        _say(f"going on from step {trainer.state.step}")
    task.prepare()

    def ask(number: int, frame: object) -> None:
        _say("asked to stop: this step is saved first (again: at once, without it)")
        trainer.ask_to_stop()
        for ending in ENDING:
            signal.signal(ending, interrupt)

    for ending in ENDING:
        signal.signal(ending, ask)
    finished = trainer.run()
    for ending in ENDING:
        signal.signal(ending, interrupt)
    if not finished:
        _say(f"not finished: the same command goes on from step {trainer.state.step}")
        # torchrun takes any other code for a process that died, and starts again.
        return PAUSED if trainer.world == 1 else 0
    if ranks.first():
        path = recipe.write_best(config, task, args.out, args.config.name)
        print(f"best model: {path}, validation score {trainer.state.best:.4f}")
    return 0


def _say(text: str) -> None:
    if ranks.first():
        print(text, flush=True)
