"""TensorRT's engines, on stand-ins: when they are built, what is said meanwhile, and the command that lists them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")

from stand_in_machine import OPTIONS, Machine
from stand_in_machine import machine as machine

from kyn_models import cli
from kyn_models.artifact import ENGINES, Artifact, write_artifact
from kyn_models.runtimes import engine_process, tensorrt_engine


def test_a_new_grid_of_nearly_the_same_size_needs_no_new_engine(machine: Machine, tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    machine.load(artifact)
    machine.load(artifact, replace(OPTIONS, points=2800))
    assert machine.builds == 1
    machine.load(artifact, replace(OPTIONS, points=3100))
    assert machine.builds == 2


def test_an_update_of_the_library_builds_again(machine: Machine, tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    machine.load(artifact)
    machine.become(version="10.16.1.11")
    machine.load(artifact)
    machine.load(artifact)
    assert machine.builds == 2


def test_an_older_artifact_says_what_adds_the_graph(machine: Machine, tiny_artifact: Path, tmp_path: Path) -> None:
    own = Artifact.load(shutil.copytree(tiny_artifact, tmp_path / "own"))
    files = {name: digest for name, digest in own.manifest.files.items() if name not in ENGINES.values()}
    older = write_artifact(own.path, replace(own.manifest, files=files), {})
    with pytest.raises(FileNotFoundError, match=r"has no engine_float16\.onnx; `kyn export .*` adds it"):
        machine.load(older, replace(OPTIONS, precision="auto"))


def test_progress_is_said(machine: Machine, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.become(slow_s=1.0)
    monkeypatch.setattr(tensorrt_engine, "build_in_process", lambda *args: engine_process.build_in_process(*args, 0.3))
    machine.load(Artifact.load(tiny_artifact))
    assert machine.said[0].startswith("TensorRT 10.3.0.30 builds an engine for Stand-in GPU; this can take minutes")
    building = [line for line in machine.said if line.startswith("building the engine, ")]
    assert len(building) >= 3 and "Timing graph nodes" in building[-1]
    assert machine.said[-1].startswith("built the engine in ")


def test_the_builder_ends_with_the_process_that_wants_its_engine(machine: Machine, tiny_artifact: Path) -> None:
    machine.become(slow_s=60)
    graph = tiny_artifact / ENGINES["float32"]
    asked = {"product": "tensorrt", "onnx": str(graph), "shapes": {}, "workspace": 1}
    with open(os.memfd_create("plan"), "wb") as plan, open(os.memfd_create("timing"), "wb") as timing:
        files = (plan.fileno(), timing.fileno())
        command = [sys.executable, "-m", "kyn_models.runtimes.engine_build"]
        asked |= {"plan_fd": files[0], "timing_fd": files[1]}
        with subprocess.Popen(
            [*command, json.dumps(asked)], cwd=engine_process.ROOT, stdin=subprocess.PIPE, pass_fds=files
        ) as process:
            while not machine.builds:
                assert process.poll() is None
                time.sleep(0.05)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 3


def test_the_command_builds_lists_and_removes(
    machine: Machine, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["engine", "build", str(tiny_artifact), "--rays", "20", "30", "--points", "900", "--precision", "float32"]
    assert cli.main(build) == 0
    out = capsys.readouterr().out
    assert "builds an engine for Stand-in GPU" in out
    assert out.endswith("ready in float32 with TensorRT 10.3.0.30, self-test passed\n")
    machine.load(Artifact.load(tiny_artifact), replace(OPTIONS, rays=600, points=1000))
    assert machine.builds == 1, "the node finds what the command has built"
    assert cli.main(["engine", "list"]) == 0
    listed, total = capsys.readouterr().out.splitlines()
    assert "tensorrt 10.3.0.30  Stand-in GPU  float32  600 rays, 1024 points" in listed and total.startswith(
        "1 engine, "
    )
    assert cli.main(["engine", "clean", "--older-than", "1"]) == 0
    assert capsys.readouterr().out.startswith("removed 0 engines")
    assert cli.main(["engine", "clean", "--all"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 engine, ")
    assert cli.main(build) == 0 and machine.builds == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["build", "--points", "0"], "kyn engine: --points: got 0, expected a number above 0"),
        (
            ["build"],
            "kyn engine: runtime tensorrt: no NVIDIA GPU found here, the driver sees none; use another runtime",
        ),
        (["clean", "--older-than", "-1"], "kyn engine: --older-than: got -1.0, expected a number of days, 0 or above"),
    ],
)
def test_the_command_says_what_is_wrong(
    machine: Machine, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    machine.driver.devices = 0
    assert cli.main(["engine", *words]) == 2
    assert capsys.readouterr().err == sentence + "\n"
