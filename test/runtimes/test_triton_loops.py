"""The Triton kernels without a GPU: their numbers in Triton's interpreter, and their compilation for GPUs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the kernels take tensors of torch")
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton comes with GPU builds of torch", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]

IN_TRITON = """
import sys
import numpy as np
import torch
from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.runtimes import torch_loops, triton_loops
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.queries import PointQuery, RayQuery
from kyn_models.runtimes.torch_decoder import TorchDecoder

size, rng = (12, 40), np.random.default_rng(3)
for hidden, rows, count in ((16, 7, 333), (13, 8, 32), (64, 1, 1)):
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    numbers = DecoderConstants(
        0.3 * draw(hidden, 39), draw(hidden), (1.5 * 2.0 ** np.arange(6)).astype(np.float32),
        KITTI360_CAMERA.normalised(), 3.0, 80.0, 0.4 * draw(hidden), -3.0,
    )
    decoder = TorchDecoder(numbers, size, torch.device("cpu"))
    features = torch.from_numpy(draw(size[0] * size[1], hidden))
    # Nobody may read beyond the last hidden unit.
    decoder._w_out = torch.cat([decoder._w_out, torch.full((64,), float("nan"))])[:hidden]
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 37), np.linspace(-0.3, 0.3, rows))
    points = rng.uniform([-30, -2, 3], [30, 3, 78], (count, 3)).astype(np.float32)
    for query in (RayQuery(np.stack([x, y, np.ones_like(x)], -1).astype(np.float32)), PointQuery(points)):
        places, answers = decoder.place(query), []
        for decoder.loops in (torch_loops, triton_loops):
            with torch.inference_mode():
                places.answer.fill_(float("nan"))
                decoder.answer(query, places, features)
            answers.append(places.answer.numpy().copy())
        plain, kernel = answers
        assert np.array_equal(np.isinf(plain), np.isinf(kernel)), (hidden, "sky")
        finite = np.isfinite(plain)
        np.testing.assert_allclose(kernel[finite], plain[finite], rtol=1e-5, atol=1e-6)
        print(type(query).__name__, finite.sum(), (~finite).sum())
"""


def run_python(program: str, **environment: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_triton_kernels_give_the_numbers_of_plain_torch() -> None:
    """In an interpreter on the CPU; it must be chosen before Triton is imported."""
    lines = [line.split() for line in run_python(IN_TRITON, TRITON_INTERPRET="1").splitlines()]
    rays = [line for line in lines if line[0] == "RayQuery"]
    assert len(lines) == 6
    assert sum(int(line[1]) for line in rays) > 50 and sum(int(line[2]) for line in rays) > 50, "surfaces and sky"


COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from kyn_models.runtimes import triton_loops

types = {"index": "*i32", "b_out": "fp32", "count": "i32"}
march = {"HIDDEN": 64, "SAMPLES": 64, "WIDE": 64, "BLOCK": triton_loops.RAYS_AT_ONCE}
density = {"HIDDEN": 64, "WIDE": 64, "BLOCK": triton_loops.POINTS_AT_ONCE}
for kernel, constants in ((triton_loops.march_kernel, march), (triton_loops.density_kernel, density)):
    types_of = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names}
    for capability in (80, 87, 90):
        code = compile(ASTSource(kernel, types_of, constants), target=GPUTarget("cuda", capability, 32))
        print(kernel.__name__, capability, len(code.asm["cubin"]))
"""


def test_triton_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    lines = run_python(COMPILED, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0").splitlines()
    assert len(lines) == 6 and all(int(line.split()[2]) > 1000 for line in lines)
