"""Several processes at one job: alone without torch, and two real ones under torchrun."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from kyn_models import ranks

ITEMS = [f"frame {i}" for i in range(7)]


def test_one_process_has_all_and_needs_no_torch() -> None:
    program = (
        "import sys; from kyn_models import ranks\n"
        "assert ranks.here() == (0, 1) and ranks.first() and ranks.device('cuda') == 'cuda'\n"
        "assert ranks.gather(ranks.share([1, 2, 3])) == [1, 2, 3]\n"
        "ranks.leave(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PATH": ""})


def test_shares_are_even_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert ranks.first() == (rank == 0)
        shares.append(ranks.share(ITEMS))
    assert sorted(sum(shares, [])) == ITEMS and {len(share) for share in shares} == {2, 3}


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.device("cuda") == "cuda:1" and ranks.device("cpu") == "cpu"


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "")])
def test_an_environment_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, rank: str, world: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ValueError, match=f"RANK={rank}, WORLD_SIZE={world}: expected.*torchrun"):
        ranks.here()


def test_two_processes_gather_in_the_order_of_the_items(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torchrun is torch's")
    script = tmp_path / "job.py"
    script.write_text(
        "import json, sys\nfrom pathlib import Path\nfrom kyn_models import ranks\n"
        f"rows = ranks.gather([(item, ranks.here()[0]) for item in ranks.share({ITEMS!r})])\n"
        "Path(sys.argv[1], f'{ranks.here()[0]}.json').write_text(json.dumps(rows))\nranks.leave()\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    root = Path(ranks.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, script, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [[item, i % 2] for i, item in enumerate(ITEMS)]


@pytest.mark.parametrize(("rank", "heard"), [(0, ["left out", "slow"]), (1, [])])
def test_only_the_first_process_warns(rank: int, heard: list[str], monkeypatch, caplog) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "warnoptions", [])
    logger = logging.getLogger("kyn_models")
    monkeypatch.setattr(logger, "level", logger.level)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ranks.quieten()
        logging.getLogger("kyn_models.data.sources").warning("left out")
        warnings.warn("slow", stacklevel=1)
        logging.getLogger("kyn_models.train").error("broken")
    said = [record.getMessage() for record in caplog.records]
    assert said.pop() == "broken"
    assert said + [str(warning.message) for warning in caught] == heard
