"""Training by two real processes under torchrun: the same as by one, also when one of them dies on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from tiny_drive import write_drive
from training_job import DIES_AT, LOOP, job_trainer

from kyn_models.loop import LAST

TEST = Path(__file__).parent


def torchrun(*arguments: str | Path, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": f"{TEST.parent}{os.pathsep}{TEST}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, f"--max-restarts={restarts}", TEST / "training_job.py", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def losses(out: Path, rank: int) -> list[tuple[int, float]]:
    lines = (out / f"losses_{rank}.txt").read_text().splitlines()
    return [(int(line.split()[0]), float(line.split()[1])) for line in lines]


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive"), cameras=("00", "01"))


@pytest.fixture(scope="module")
def two(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training by two processes."""
    out = tmp_path_factory.mktemp("two")
    done = torchrun(drive, out)
    assert done.returncode == 0, done.stderr
    return out


def test_two_processes_give_the_losses_and_weights_of_one(drive: Path, two: Path, tmp_path: Path) -> None:
    one = job_trainer(drive, tmp_path)
    expected = [one.step(one._parts(step))["total"] for step in range(LOOP.steps)]
    for rank in range(2):
        assert [number for number, _ in losses(two, rank)] == list(range(LOOP.steps))
        assert [value for _, value in losses(two, rank)] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    names = [name for name, _ in one.model.named_parameters()]
    start = flat(job_trainer(drive, tmp_path).model.state_dict(), names)
    alone = flat(one.model.state_dict(), names)
    together = flat(torch.load(two / LAST, weights_only=True)["model"], names)
    # Adam makes a step of the gradients' signs: rounding counts where a gradient is next to nothing.
    assert (alone - together).norm() < 0.01 * (alone - start).norm()


def flat(weights: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    return torch.cat([weights[name].double().flatten() for name in names])


def test_validation_is_shared_and_its_answer_everywhere_the_same(drive: Path, two: Path, tmp_path: Path) -> None:
    saved = torch.load(two / LAST, weights_only=True)
    one = job_trainer(drive, tmp_path)
    one.model.load_state_dict(saved["averaged"])
    one.model.eval()
    with torch.no_grad():
        score, numbers = one._validate(one.model)
    assert set(numbers) == {"colour", "abs_rel"} and score == numbers["abs_rel"]
    assert saved["best"] == pytest.approx(score, rel=1e-5)


def test_a_rank_that_dies_changes_nothing(drive: Path, two: Path, tmp_path: Path) -> None:
    done = torchrun(drive, tmp_path, "1", restarts=1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    # Steps after the last checkpoint are done again, and give what they gave.
    assert set(losses(tmp_path, 1)) == set(losses(two, 1)) and LOOP.steps > DIES_AT
    died, whole = (torch.load(out / LAST, weights_only=True) for out in (tmp_path, two))
    assert all(torch.equal(died["model"][name], value) for name, value in whole["model"].items())
    assert died["best"] == whole["best"]
