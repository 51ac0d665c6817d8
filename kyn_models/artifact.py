"""A model as a folder that says what it is. numpy only; hashes are checked before anything is used.

    artifact.json        family, config, training camera, ranges, input, labels, licences, provenance, hashes
    weights.safetensors  the weights by their official names (training, evaluation, the torch runtime)
    encoder.onnx         image in, pre-activation map out (all other runtimes)
    decoder.npz          constants of the point network
    engine_*.onnx        the whole model as one graph, by precision (TensorRT)
    network.onnx         multi-frame depth: image and cost volume in, depth out
    mono.onnx            multi-frame depth: depth of the image alone
    multiframe.onnx      multi-frame depth: images, poses and camera in, depth out (TensorRT)
    selftest.npz         an image and what the plain model says about it

A folder with weights alone is a valid artifact: ``kyn export`` adds the other files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from kyn_models import config as configuration
from kyn_models.canonical import CanonicalCamera
from kyn_models.types import Float64Array, Intrinsics
from kyn_models.whole_files import write_whole

FORMAT = 1
MANIFEST = "artifact.json"
WEIGHTS = "weights.safetensors"
ENCODER = "encoder.onnx"
DECODER = "decoder.npz"
SELFTEST = "selftest.npz"
NETWORK = "network.onnx"
MONO = "mono.onnx"
MULTIFRAME = "multiframe.onnx"
ENGINES = {"float32": "engine_float32.onnx", "float16": "engine_float16.onnx"}
"""Precision of the image network to the fused graph that TensorRT builds engines from."""

Branch = Literal["fused", "mono"]
"""Answers of a model of several frames: of all of them, of the key frame alone."""
BRANCHES: tuple[Branch, ...] = get_args(Branch)

KITTI360_CAMERA = Intrinsics(552.554261, 552.554261, 682.049453, 238.769549, 1408, 376)
"""Rectified perspective camera 00 of KITTI-360 (its published calibration)."""


def forward_mount(height_m: float, pitch_deg: float) -> Float64Array:
    """(4, 4) base_from_camera of an optical frame ``height_m`` above the road, looking ``pitch_deg`` down."""
    down = math.radians(pitch_deg)
    pose = np.eye(4)
    pose[:3, 0] = (0.0, -1.0, 0.0)
    pose[:3, 1] = (-math.sin(down), 0.0, -math.cos(down))
    pose[:3, 2] = (math.cos(down), 0.0, -math.sin(down))
    pose[2, 3] = height_m
    return pose


@dataclass(frozen=True)
class TrainingCamera:
    """The camera a model was trained with.

    source: its pinhole parameters before resizing. width, height: the network's image size.
    height_m, pitch_deg: of the optical centre above the road, and of the optical axis below the horizon.
    """

    source: Intrinsics = KITTI360_CAMERA
    width: int = 640
    height: int = 192
    height_m: float = 1.58
    pitch_deg: float = 5.6

    def base_from_camera(self) -> Float64Array:
        """(4, 4) mount of a camera of this height and pitch above the origin of ``base_link``, looking forward."""
        return forward_mount(self.height_m, self.pitch_deg)


@dataclass(frozen=True)
class Licences:
    """SPDX names or a sentence, for each part of a model.

    code: of the implementation that runs the model, which is kyn's. weights: as their authors state it, with the
    licence of the authors' own code where that is all they state. data: of what the weights were trained on.
    """

    code: str = "Apache-2.0"
    weights: str = "unknown"
    data: str = "unknown"


@dataclass(frozen=True)
class Manifest:
    """The content of ``artifact.json``.

    family: key of the system. config: its configuration. z_near, z_far: trained range along the optical axis, metres.
    labels: class names by index, empty for families without classes.
    branches: of a model of several frames, the answers that it was taught; empty: all that its family has.
    provenance: where the weights come from, free text by key. files: SHA-256 of every other file of the folder.
    """

    family: str
    config: dict[str, Any]
    camera: TrainingCamera = TrainingCamera()
    z_near: float = 3.0
    z_far: float = 80.0
    input: str = "RGB uint8, image / 255 * 2 - 1"
    labels: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    licences: Licences = Licences()
    provenance: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Artifact:
    """A checked artifact folder. ``hash`` identifies its whole content."""

    path: Path
    manifest: Manifest
    hash: str

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Read and check a folder.

        Raises ``FileNotFoundError`` if the folder or a listed file is missing, ``ValueError`` if the manifest is
        damaged, written by a later version, or a file does not have the hash that the manifest states.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder, expected a model artifact (see `kyn import --help`)")
        if not (path / MANIFEST).is_file():
            inside = path / "artifact"
            known = f"; {inside} is one" if (inside / MANIFEST).is_file() else " (see `kyn import --help`)"
            raise FileNotFoundError(f"{path}: holds no {MANIFEST}, expected a model artifact{known}")
        text = (path / MANIFEST).read_bytes()
        manifest = _read_manifest(text, path / MANIFEST)
        for name, expected in manifest.files.items():
            file = path / name
            if Path(name).name != name or not file.is_file():
                raise FileNotFoundError(f"{file}: missing, but listed in {MANIFEST}; copy or export the model again")
            if sha256(file) != expected:
                raise ValueError(
                    f"{file}: its content does not match the hash in {MANIFEST}, expected {expected[:12]}...; "
                    "the file is damaged or from another model, copy or export it again"
                )
        return cls(path, manifest, hashlib.sha256(text).hexdigest())

    @property
    def camera(self) -> CanonicalCamera:
        """The canonical camera of this model."""
        camera = self.manifest.camera
        return CanonicalCamera(camera.source, camera.width, camera.height)

    @property
    def name(self) -> str:
        """Folder name and family, for people."""
        return f"{self.path.resolve().name} ({self.manifest.family})"

    def file(self, name: str) -> Path:
        """Path of a listed file. Raises ``FileNotFoundError`` saying which command adds it."""
        if name not in self.manifest.files:
            raise FileNotFoundError(f"{self.path}: has no {name}; `kyn export {self.path}` adds it")
        return self.path / name


def _read_manifest(text: bytes, path: Path) -> Manifest:
    try:
        mapping = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}), copy or export the model again") from error
    if isinstance(mapping, dict) and mapping.get("format") != FORMAT:
        raise ValueError(f"{path}: got format {mapping.get('format')!r}, expected {FORMAT}; update kyn or export again")
    return configuration.from_mapping(Manifest, mapping, str(path))


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_artifact(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Artifact:
    """Write ``files`` (name to content) and the manifest with their hashes; files already there and listed stay.

    The manifest is written last and at once, so that an interrupted write never leaves a folder that loads wrongly.
    Returns the loaded artifact.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    hashes = dict(manifest.files)
    for name, content in files.items():
        write_whole(path / name, content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    manifest = replace(manifest, files=dict(sorted(hashes.items())))
    text = json.dumps(configuration.to_mapping(manifest), indent=2, sort_keys=True) + "\n"
    write_whole(path / MANIFEST, text.encode())
    return Artifact.load(path)


@contextmanager
def trial_artifact(artifact: Artifact, files: Mapping[str, bytes]) -> Iterator[Artifact]:
    """The weights of ``artifact`` with ``files`` in a folder of its own, to be tried before they are written."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=artifact.path) as scratch:
        weights = artifact.file(WEIGHTS)
        # Weights may be gigabytes: the trial reads those that are there, where the file system can do it.
        try:
            os.link(weights, Path(scratch) / WEIGHTS)
        except OSError:
            shutil.copyfile(weights, Path(scratch) / WEIGHTS)
        listed = {name: digest for name, digest in artifact.manifest.files.items() if name == WEIGHTS}
        yield write_artifact(scratch, replace(artifact.manifest, files=listed), files)


def default_artifact() -> Path:
    """Folder of the model that is shipped with kyn (it may be missing in a source tree without weights)."""
    return Path(__file__).parent / "weights" / "streets-lite0"
