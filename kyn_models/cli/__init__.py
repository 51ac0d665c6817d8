"""The ``kyn`` command: one module per subcommand, imported only when that subcommand is run.

A subcommand's module has ``add_arguments(parser)`` and ``run(args) -> int`` (the exit code). What the user can mend is
raised as ``ValueError``, ``OSError`` or ``ImportError`` with one sentence; it is printed without a traceback.

Exit codes: 0 done, 1 done and the answer is no (a check failed), 2 the user can mend it, 3 paused: the same command
goes on (``kyn train``), 130 stopped with Ctrl-C.
``KYN_DEBUG=1`` shows the traceback of what would be one sentence.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from kyn_models import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("kyn_models.cli.doctor", "what is installed and works, and what to do about each gap"),
    "image": ("kyn_models.cli.image", "one photo to depth, bird's-eye view and voxel mesh"),
    "voxels": ("kyn_models.cli.voxels", "voxel mesh and picture of every frame of a KITTI-360 split"),
    "cloud": ("kyn_models.cli.cloud", "coloured point cloud of a sequence from the depth of its frames"),
    "video": ("kyn_models.cli.video", "video of a sequence, of flights, or of the rise to a bird's-eye view"),
    "synth": ("kyn_models.cli.synth", "write synthetic streets in the KITTI-360 or KITTI odometry layout"),
    "prepare": ("kyn_models.cli.prepare", "make what the readers of a downloaded data set need"),
    "import": ("kyn_models.cli.import_", "make a model artifact from an official checkpoint"),
    "engine": ("kyn_models.cli.engine", "build, list or remove TensorRT engines"),
    "export": ("kyn_models.cli.export", "add ONNX files and the self-test to a model artifact"),
    "train": ("kyn_models.cli.train", "train a model from a configuration file"),
    "gt-occupancy": ("kyn_models.cli.gt_occupancy", "occupancy truth from the lidar of KITTI-360, as files"),
    "prior": ("kyn_models.cli.prior", "what streets look like on average, for comparison in `kyn eval`"),
    "eval": (
        "kyn_models.cli.eval",
        "scores of a model: occupancy, depth, multi-frame depth, second views (nvs)",
    ),
    "bench": ("kyn_models.cli.bench", "time, memory and accuracy of every runtime on this machine"),
}
"""Name to module and one line of help, in the order of ``kyn --help``."""


def extra(name: str) -> str:
    """How to get the optional libraries of one group: kyn is installed from its source folder."""
    return f"pip install '.[{name}]' in kyn's source folder"


ROS_FROM_PIP = f"{extra('ros')}, or source the setup file of your ROS 2 installation"
REMEDIES = {
    "openvino": extra("openvino"),
    "onnxruntime": extra("onnxruntime"),
    "numba": extra("openvino"),
    "torch": extra("train"),
    "safetensors": extra("train"),
    "onnx": extra("train"),
    "onnxscript": extra("train"),
    "tensorboard": extra("train"),
    "tqdm": extra("train"),
    "matplotlib": extra("plot"),
    "av": extra("video"),
    "rerun": extra("viz"),
    "rosbags": "pip install rosbags",
    "kyn": "its messages were not built: build with colcon, or `make setup`, where the interface generators are",
    "rclpy": ROS_FROM_PIP,
    "nav_msgs": ROS_FROM_PIP,
    "sensor_msgs": ROS_FROM_PIP,
}
"""How to get a library that an optional part needs, by the name it is imported with."""

_interrupted = threading.Event()


class Parser(argparse.ArgumentParser):
    """argparse whose errors are two lines: what is wrong, and the short usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what is not known is an error of the command that it was given to, not of ``kyn``."""
        found, others = super().parse_known_args(args, namespace)
        if others:
            self.error(f"unrecognized arguments: {' '.join(others)}")
        return found, others

    def error(self, message: str) -> NoReturn:
        usage = " ".join([self.prog, "[options]", *(_shown(action) for action in self._actions if action.required)])
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\nusage: {usage}; more in `{self.prog} --help`\n")


def _shown(action: argparse.Action) -> str:
    """A required argument as in a usage line."""
    value = action.metavar or (f"{{{','.join(action.choices)}}}" if action.choices else action.dest)
    if not action.option_strings:
        return str(value)
    return f"{action.option_strings[0]} {value if action.metavar else str(value).upper()}"


def main(argv: Sequence[str] | None = None, commands: Mapping[str, tuple[str, str]] = COMMANDS) -> int:
    """Run one subcommand of ``commands`` (name to module and help) and return the exit code.

    ``argv`` as in ``sys.argv[1:]``, which is the default. Only the chosen subcommand's module is imported. After Ctrl-C
    further ones are ignored; by default, where the process ends with the command, also once this has returned 130: what
    libraries do at the end of a process is brief.
    """
    is_all, argv = argv is None, list(sys.argv[1:] if argv is None else argv)
    _interrupted.clear()
    # Not where SIGINT is ignored, as in the background of a script, nor where a caller has a handler of its own.
    in_main_thread = threading.current_thread() is threading.main_thread()
    ours = in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        return _run(argv, commands, ours)
    except KeyboardInterrupt:  # while the one before was being answered
        return 130
    finally:
        if ours and not (is_all and _interrupted.is_set()):
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(argv: Sequence[str], commands: Mapping[str, tuple[str, str]], ours: bool) -> int:
    """ours: the handler of SIGINT is this module's."""
    chosen = next((word for word in argv if not word.startswith("-")), None)
    name = chosen if chosen in commands else None
    try:
        args = _parser(commands, name).parse_args(argv)
        return int(args.run(args))
    except BaseException as error:
        if ours and _interrupted.is_set():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if isinstance(error, KeyboardInterrupt) or _interrupted.is_set():
            return 130
        return _answer(name, error)


def interrupt(number: int, frame: object) -> None:
    """Handler of signals that end a command: raises ``KeyboardInterrupt``, after which ``main`` returns 130.

    ``main`` remembers the signal: compiled code turns a ``KeyboardInterrupt`` into whatever else it raises.
    """
    _interrupted.set()
    raise KeyboardInterrupt


def _answer(name: str | None, error: BaseException) -> int:
    """The exit code of an error, said in a sentence; raised again if it is not one that the user can mend."""
    if isinstance(error, BrokenPipeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at exit, after the reader left
        return 0
    own = isinstance(error, ModuleNotFoundError) and str(error.name).startswith(("kyn_models", "kyn_ros"))
    if own or os.environ.get("KYN_DEBUG") or not isinstance(error, (ValueError, OSError, ImportError, Warning)):
        raise error
    print(f"kyn {name}: {_sentence(error)}", file=sys.stderr)
    return 2


def _parser(commands: Mapping[str, tuple[str, str]], chosen: str | None) -> Parser:
    parser = Parser(prog="kyn", description="One camera in, space out: metric depth and occupancy.")
    parser.add_argument("--version", action="version", version=f"kyn {__version__}")
    # argparse makes room for the metavar, and too little for a name that is longer than it.
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND [options]", required=True)
    for name, (module_name, text) in commands.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            module = importlib.import_module(module_name)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def add_kinds(parser: argparse.ArgumentParser, kinds: Mapping[str, tuple[str, str]], title: str, metavar: str) -> None:
    """A second word of a command: each has a module as a command's, whose ``run`` becomes ``args.run_kind``.

    kinds: word to module and one line of help, in the order of ``--help``.
    """
    subparsers = parser.add_subparsers(title=title, metavar=f"{metavar} [options]", required=True)
    for name, (module_name, text) in kinds.items():
        module = importlib.import_module(module_name)
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        module.add_arguments(subparser)
        subparser.set_defaults(run_kind=module.run)


def _sentence(error: Exception) -> str:
    """The error as one line that says what to do."""
    if isinstance(error, Warning):
        text = " ".join(str(error).split())
        return f"got a library's warning as an error ({text}); run it without PYTHONWARNINGS=error and -W error"
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.split(".")[0]
        return f"needs the Python module {top}, which is not installed here" + (
            f"; {REMEDIES[top]}" if top in REMEDIES else ""
        )
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return " ".join(str(error).split()) or type(error).__name__
