"""The TensorRT runtime with a model whose points attend to each other, on the stand-ins of ``stand_in_machine``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference is the torch runtime")
pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")

from stand_in_machine import Machine
from stand_in_machine import machine as machine

from kyn_models import runtimes
from kyn_models.artifact import Artifact
from kyn_models.runtimes.queries import LabelQuery, LoadOptions, PointQuery, RayQuery
from kyn_models.runtimes.torch_runtime import PlainTorch

OPTIONS = LoadOptions(device="cuda", precision="float32", rays=700, points=2000)


@pytest.fixture(scope="module")
def asked(tiny_kyn: Path) -> tuple[np.ndarray, dict, dict]:
    """A picture, sets that fit a pass of ``OPTIONS`` (700 rays, 2048 points) and some that do not, torch's answers."""
    rng = np.random.default_rng(5)
    image = np.kron(rng.integers(0, 256, (8, 20, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 40), np.linspace(-0.3, 0.3, 30))
    points = rng.uniform([-30, -2, 1], [30, 3, 78], (4200, 3)).astype(np.float32)
    queries = {
        "depth": RayQuery(np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)),
        "few": PointQuery(points[:1500]),
        "many": PointQuery(points),
        "by_call": PointQuery(points, points_per_call=1700),
        "labels": LabelQuery(points),
    }
    plain = PlainTorch(Artifact.load(tiny_kyn), "cpu").prepare(queries)(image, frozenset(queries)).arrays
    return image, queries, plain


def assert_equal_to(plain: dict, answer: dict) -> None:
    for name, values in answer.items():
        assert values.shape == plain[name].shape and values.dtype == plain[name].dtype
        if name == "labels":
            assert np.array_equal(values, plain[name]) and len(np.unique(values)) > 1
        else:
            np.testing.assert_allclose(values, plain[name], rtol=1e-3, atol=1e-3 if name == "depth" else 1e-4)


def test_sets_of_one_pass_and_of_several(machine: Machine, tiny_kyn: Path, asked: tuple) -> None:
    image, queries, plain = asked
    assert np.abs(plain["many"] - plain["by_call"]).max() > 1e-3, "sets that make no difference prove nothing"
    step = machine.load(Artifact.load(tiny_kyn), OPTIONS).prepare(queries)
    step(255 - image, frozenset(queries))
    assert_equal_to(plain, step(image, frozenset(queries)).arrays)


def test_answers_do_not_depend_on_what_else_is_asked(machine: Machine, tiny_kyn: Path, asked: tuple) -> None:
    image, queries, _ = asked
    runtime = machine.load(Artifact.load(tiny_kyn), OPTIONS)
    both = runtime.prepare(queries)
    whole = both(image, frozenset(queries)).arrays
    for name in ("few", "many", "labels"):
        assert np.array_equal(both(image, frozenset({name})).arrays[name], whole[name])
        alone = runtime.prepare({name: queries[name]})(image, frozenset({name})).arrays[name]
        assert np.array_equal(alone, whole[name])


def test_passes_of_a_set_run_twice_all_others_once(machine: Machine, tiny_kyn: Path, asked: tuple) -> None:
    image, queries, plain = asked
    step = machine.load(Artifact.load(tiny_kyn), OPTIONS).prepare(queries)
    for name, runs in (("few", 1), ("labels", 3), ("by_call", 3), ("depth", 4), ("many", 6)):
        machine.driver.calls.clear()
        assert_equal_to(plain, step(image, frozenset({name})).arrays)
        assert machine.driver.calls.count("cuGraphLaunch") == runs, name


def test_auto_takes_it_after_a_self_test_in_float16(machine: Machine, tiny_kyn: Path) -> None:
    artifact = Artifact.load(tiny_kyn)
    options = replace(OPTIONS, precision="auto")
    runtime = runtimes.choose("auto", artifact, pytest.fail, options)
    assert (runtime.name, runtime.precision, machine.builds) == ("tensorrt", "float16", 1)
    machine.load(artifact, replace(options, points=2048))
    assert machine.builds == 1
    machine.load(artifact, OPTIONS)
    machine.load(artifact, replace(options, rays=600))
    assert machine.builds == 3
