"""Every subcommand's manners: help, no argument, a missing path, a wrong artifact. In-process, so a traceback fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from kyn_models import __version__, cli
from kyn_models.artifact import WEIGHTS, Manifest, write_artifact
from kyn_ros.cli import COMMANDS, ROS_COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]

RUNS_WITHOUT_ARGUMENTS = {"doctor", "demo", "node", "bench", "bench-node"}
"""These do their whole job without arguments; other tests run them."""

MISSING_PATH = {
    "doctor": ["--model", "nowhere"],
    "image": ["nowhere.png"],
    "cloud": ["--data", "nowhere", "--out", "cloud.ply", "--model", "{model}"],
    "voxels": ["--data", "nowhere", "--split", "nowhere.txt", "--out", "out", "--model", "{model}"],
    "synth": ["file/below/a/file"],
    "prepare": ["kitti360", "--data", "nowhere"],
    "video": ["flight", "--images", "nowhere", "--out", "film.mp4", "--model", "{model}"],
    "import": ["bts", "nowhere.pth", "out"],
    "export": ["nowhere"],
    "engine": ["build", "nowhere"],
    "train": ["nowhere.yaml", "out"],
    "eval": ["depth", "--data", "nowhere", "--model", "{model}"],
    "gt-occupancy": ["--data", "nowhere", "--out", "out"],
    "prior": ["nowhere/prior.npz"],
    "demo": ["--data", "nowhere", "--model", "{model}"],
    "play": ["nowhere"],
    "node": ["--params-file", "nowhere.yaml"],
    "bag": ["nowhere", "out"],
    "bench": ["--images", "nowhere", "--model", "{model}"],
    "bench-node": ["--images", "nowhere", "--model", "{model}"],
}
WRONG_ARTIFACT = {
    "doctor": ["--model", "{artifact}"],
    "image": ["{photo}", "--model", "{artifact}"],
    "video": ["flight", "--images", "{data}", "--out", "film.mp4", "--model", "{artifact}"],
    "export": ["{artifact}"],
    "engine": ["build", "{artifact}"],
    "eval": ["depth", "--data", "{data}", "--model", "{artifact}"],
    "demo": ["--model", "{artifact}"],
    "node": ["--model", "{artifact}"],
    "bench": ["--model", "{artifact}"],
    "bench-node": ["--model", "{artifact}"],
}
ANSWERS_NO = {"doctor"}
"""A missing model is what these report: exit code 1, and the report on standard output."""


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def kyn(capsys, monkeypatch, tmp_path):
    """Run ``kyn`` with words in an empty folder. Anything but an exit code (a traceback, that is) fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KYN_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    Path("file").write_text("a file, not a folder")

    def run(*words: str) -> Answer:
        capsys.readouterr()
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        return Answer(code, *capsys.readouterr())

    before = dict(os.environ)
    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def places(tmp_path, tiny_artifact) -> dict[str, str]:
    """Inputs that are right, and an artifact folder whose weights are not those that its manifest lists."""
    data, photo = tmp_path / "data", tmp_path / "photo.png"
    data.mkdir()
    cv2.imwrite(str(photo), np.zeros((40, 60, 3), np.uint8))
    artifact = write_artifact(tmp_path / "artifact", Manifest("bts", {}), {WEIGHTS: b"weights"})
    (artifact.path / WEIGHTS).write_bytes(b"other weights")
    return {"model": str(tiny_artifact), "artifact": str(artifact.path), "data": str(data), "photo": str(photo)}


def assert_user_error(answer: Answer, command: str) -> None:
    assert answer.code == 2, answer
    lines = answer.err.strip().splitlines()
    assert 1 <= len(lines) <= 3, answer.err
    assert lines[0].startswith(f"kyn {command}: "), answer.err
    assert "Traceback" not in answer.err + answer.out


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("eval", "nvs", "--stop", "3011"), "kyn eval nvs"),
        (("eval", "depth", "--model", "m", "--data", "d", "--nothing"), "kyn eval depth"),
        (("doctor", "--nothing"), "kyn doctor"),
        (("--nothing", "doctor"), "kyn"),
    ],
)
def test_an_unknown_option_names_the_command_that_it_was_given_to(kyn, words, command):
    answer = kyn(*words)
    unknown = "--stop 3011" if "--stop" in words else "--nothing"
    assert answer.code == 2 and answer.err.startswith(f"{command}: unrecognized arguments: {unknown}\n")
    assert f"more in `{command} --help`" in answer.err


def test_tables_cover_every_command():
    assert set(MISSING_PATH) == set(COMMANDS)
    assert set(WRONG_ARTIFACT) <= set(COMMANDS)
    assert set(ROS_COMMANDS) | set(cli.COMMANDS) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(kyn, command):
    answer = kyn(command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"usage: kyn {command}")


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - RUNS_WITHOUT_ARGUMENTS))
def test_no_argument_gives_the_short_usage(kyn, command):
    answer = kyn(command)
    assert_user_error(answer, command)
    assert "--help" in answer.err


@pytest.mark.parametrize("command", MISSING_PATH)
def test_missing_path_is_named(kyn, places, command):
    answer = kyn(command, *(word.format(**places) for word in MISSING_PATH[command]))
    if command in ANSWERS_NO:
        assert (answer.code, answer.err) == (1, "")
    else:
        assert_user_error(answer, command)
    assert "nowhere" in answer.out + answer.err or "file" in answer.err


@pytest.mark.parametrize("command", WRONG_ARTIFACT)
def test_wrong_artifact_is_refused(kyn, places, command):
    answer = kyn(command, *(word.format(**places) for word in WRONG_ARTIFACT[command]))
    if command in ANSWERS_NO:
        assert (answer.code, answer.err) == (1, "")
    else:
        assert_user_error(answer, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_option(kyn, command):
    answer = kyn(command, "--no-such-option")
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) <= 3


def test_kyn_help_lists_every_command_with_one_line(kyn):
    answer = kyn("--help")
    assert answer.code == 0
    listed = [line.split()[0] for line in answer.out.splitlines() if line.startswith("    ") and line.strip()]
    assert listed == list(COMMANDS)


def test_version(kyn):
    assert kyn("--version").out == f"kyn {__version__}\n"


@pytest.mark.parametrize("words", [[], ["no-such-command"]])
def test_kyn_without_a_command(kyn, words):
    answer = kyn(*words)
    assert answer.code == 2
    assert answer.err.startswith("kyn: ") and len(answer.err.strip().splitlines()) <= 3


SLOW = """
import atexit, sys, time
from pathlib import Path
from kyn_models import cli

def slowly(*_):
    print("ready", flush=True)
    time.sleep(20)

def slow_write(path, content):
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
    slowly()

def slow_unlink(path, missing_ok=False):
    slowly()

# As libraries that end their threads.
atexit.register(time.sleep, 0.8)
what = sys.argv.pop(1)
if what == "frames":
    import kyn_models.cloud
    kyn_models.cloud.seen_from = slowly
elif what == "scores":
    import kyn_models.cli.eval_multiframe
    kyn_models.cli.eval_multiframe.require_frames_artifact = slowly
else:
    Path.write_bytes = slow_write
    if what == "cleaning":
        Path.unlink = slow_unlink
print("started", flush=True)
sys.exit(cli.main())
"""


@pytest.mark.parametrize("what", ["frames", "writing", "cleaning", "scores"])
def test_ctrl_c_twice_ends_quietly_and_leaves_no_halves(what, shared_data, tiny_artifact, tmp_path):
    out = tmp_path / "cloud.ply"
    out.write_bytes(b"of before")
    command = ["cloud", "--data", str(shared_data / "kitti360"), "--model", str(tiny_artifact), "--out", str(out)]
    command += ["--every", "100", "--far", "400", "--edge", "10", "--step", "4", "--voxel", "0"]
    if what == "scores":
        command = ["eval", "multiframe", "--model", str(tiny_artifact), "--layout", "streets"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, what, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert any(line == "ready\n" for line in process.stdout), process.stderr.read()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, error = process.communicate(timeout=30)
    # Progress may be on the line; a traceback is not.
    assert process.returncode == 130 and "Traceback" not in error and "KeyboardInterrupt" not in error, error
    assert out.read_bytes() == b"of before"


class TestWhatACommandRaises:
    """A command module of its own, on the path, that raises what its argument says."""

    @pytest.fixture
    def raising(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "raising_command.py").write_text(
            "import errno, os, signal\n"
            "ERRORS = {\n"
            "    'value': ValueError('first line\\nsecond line'),\n"
            "    'missing': FileNotFoundError(errno.ENOENT, 'No such file or directory', 'x.yaml'),\n"
            "    'library': ModuleNotFoundError('', name='openvino.runtime'),\n"
            "    'interrupt': KeyboardInterrupt(),\n"
            "    'pipe': BrokenPipeError(),\n"
            "    'bug': TypeError('a bug'),\n"
            "    'warning': DeprecationWarning('module x is deprecated'),\n"
            "}\n"
            "def add_arguments(parser):\n"
            "    parser.add_argument('what')\n"
            "def run(args):\n"
            "    if args.what.startswith('hidden'):\n"
            "        try:\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "        except KeyboardInterrupt:\n"
            "            pass\n"
            "        raise SystemError('set') if args.what == 'hidden bug' else ValueError('hidden')\n"
            "    raise ERRORS[args.what]\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delenv("KYN_DEBUG", raising=False)
        monkeypatch.setattr(sys, "stdout", sys.stdout)

        def run(what: str) -> tuple[int, str]:
            code = cli.main(["raising", what], {"raising": ("raising_command", "raises")})
            return code, capsys.readouterr().err

        return run

    def test_user_errors_are_one_line(self, raising):
        assert raising("value") == (2, "kyn raising: first line second line\n")
        assert raising("missing") == (2, "kyn raising: x.yaml: no such file or directory\n")

    def test_missing_library_says_how_to_get_it(self, raising):
        code, text = raising("library")
        assert code == 2 and "pip install '.[openvino]' in kyn's source folder" in text

    def test_interrupt_and_broken_pipe(self, raising):
        assert raising("interrupt") == (130, "")
        assert raising("pipe") == (0, "")

    @pytest.mark.parametrize("what", ["hidden bug", "hidden value"])
    def test_an_interrupt_that_compiled_code_turned_into_something_else(self, raising, what):
        before = signal.getsignal(signal.SIGINT)
        assert raising(what) == (130, "") and signal.getsignal(signal.SIGINT) is before
        assert raising("value")[0] == 2, "an interrupt of the command before is remembered"

    def test_a_warning_as_an_error_says_where_that_comes_from(self, raising):
        code, text = raising("warning")
        assert code == 2 and text.count("\n") == 1
        assert "module x is deprecated" in text and "PYTHONWARNINGS" in text

    def test_a_bug_is_not_hidden(self, raising):
        with pytest.raises(TypeError, match="a bug"):
            raising("bug")

    def test_debug_shows_the_traceback(self, raising, monkeypatch):
        monkeypatch.setenv("KYN_DEBUG", "1")
        with pytest.raises(ValueError, match="first line"):
            raising("value")


def test_doctor_reports_every_library_and_says_what_to_do(kyn):
    answer = kyn("doctor", "--json", "--model", "nowhere")
    report = json.loads(answer.out)
    status = {check["name"]: check["status"] for check in report["checks"]}
    assert {"python", "numpy", "cv2", "model", "openvino", "onnxruntime", "torch", "rclpy", "kyn.msg"} <= set(status)
    assert status["python"] == "ok" and status["model"] == "gap"
    assert answer.code == 1 and not any(report["jobs"].values())


def test_as_a_process_without_a_traceback(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kyn_ros.cli", "image", "nowhere.png"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert answer.stderr == "kyn image: nowhere.png: no such file, expected a photo\n"


def test_doctor_finds_the_runtimes_that_run_the_model(kyn, tiny_artifact):
    answer = kyn("doctor", "--json", "--model", str(tiny_artifact))
    report = json.loads(answer.out)
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["model"]["status"] == checks["runtime"]["status"] == "ok"
    assert report["jobs"]["photos (kyn image)"] is True
    for name in ("openvino", "onnxruntime", "torch"):
        if checks[name]["status"] == "ok":
            assert "runs the model in" in checks[name]["detail"]
