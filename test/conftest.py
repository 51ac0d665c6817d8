"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Threads that wait spin by default: on a busy machine the small networks of tests then take 40 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Tests that ask for OpenVINO themselves do not report it either, see kyn_models/runtimes/quiet_openvino.py.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script starts what runs in its background so, and its children inherit it: Ctrl-C could not be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _shared(name: str) -> Path:
    folder = (ROOT / os.environ.get("KYN_TEST_DATA", "../shared") / name).resolve()
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; KYN_TEST_DATA names the folder that holds data/ and golden/")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real frames: kitti360/, kitti_raw/, kitti_odometry/. Never shipped."""
    return _shared("data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with the authors' inputs and outputs, one folder per system."""
    return _shared("golden")


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a complete small artifact with name-seeded weights. Copy it before changing it."""
    for library in ("torch", "safetensors", "onnx", "onnxscript"):
        pytest.importorskip(library, reason="making an artifact needs the train extra")
    from artifacts import write_tiny_artifact

    return write_tiny_artifact(tmp_path_factory.mktemp("artifact") / "tiny").path


@pytest.fixture(scope="session")
def tiny_kyn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of family kyn, for images of 160x64, with 5 labels; its world is part occupied, part free."""
    for library in ("torch", "safetensors", "onnx", "onnxscript"):
        pytest.importorskip(library, reason="making an artifact needs the train extra")
    from artifacts import write_tiny_kyn

    return write_tiny_kyn(tmp_path_factory.mktemp("artifact") / "tiny_kyn", lin_out_bias=-0.8).path


@pytest.fixture(scope="session")
def tiny_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of family dymultidepth, for images of 96x64 and 8 planes."""
    for library in ("torch", "safetensors", "onnx", "onnxscript", "numba"):
        pytest.importorskip(library, reason="making an artifact needs the train extra")
    from artifacts import write_tiny_frames

    return write_tiny_frames(tmp_path_factory.mktemp("artifact") / "tiny_frames").path


@pytest.fixture
def borrowed_engines(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export takes TensorRT's graphs from ``tiny_artifact`` instead of making them, which is two thirds of its time.

    For tests of everything else: that these graphs are the model, test_fused.py and test_engine_build.py prove.
    """
    from kyn_models import export as exporting
    from kyn_models.artifact import ENGINES

    graphs = {name: (tiny_artifact / name).read_bytes() for name in ENGINES.values()}
    monkeypatch.setattr(exporting, "_engines", lambda *_: graphs)


MAY_SKIP = ("ROS 2 installation", "CUDA", "GPU")
"""Words of the reasons that count where KYN_REQUIRE_ROS=1: what no machine without them can run."""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With KYN_REQUIRE_ROS=1 (set in CI) a skip for any other reason is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("KYN_REQUIRE_ROS") != "1" or reporter is None:
        return
    reasons = [str(report.longrepr[2]) for report in reporter.stats.get("skipped", [])]
    refused = [reason for reason in reasons if not any(word in reason for word in MAY_SKIP)]
    if refused and exitstatus == 0:
        reporter.ensure_newline()
        reporter.write_line(f"{len(refused)} tests were skipped that must run here: {'; '.join(sorted(set(refused)))}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
