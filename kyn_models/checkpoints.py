"""Other people's checkpoints, read without running anything in them. torch only to build the tensors that are used.

A ``.pt`` file is a pickle, and a pickle is a program. Here only dictionaries, lists and tensors come to life; every
other class or function that a file names becomes an inert ``Foreign``. So files may hold training state (optimiser,
options, objects of libraries that are not installed). Tensors are read from the file only when they are asked for.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

ZIP_BEGIN = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of a file that torch wrote before version 1.6 (its public constant)."""
LEGACY_PROTOCOL = 1001

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Foreign:
    """An object of a class or function that is not run: takes whatever a pickle does to it and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Foreign:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Foreign:
        return Foreign()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


class _Dictionary(dict[Any, Any]):
    """A dictionary that takes no attributes from a pickle (state dicts carry some)."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    elements: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file. offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        """Attributes that a pickle hangs on a tensor are not taken over."""


class _Reader(pickle.Unpickler):
    """Builds containers and ``StoredTensor``; everything else is ``Foreign``."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name == "OrderedDict":
            return _Dictionary
        if module in ("torch", "torch.cuda") and name in STORAGES:
            return STORAGES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor_of(*arguments)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        # Functions and classes of their own for every load: nothing that a file does to them outlives the file.
        return type("Foreign", (Foreign,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, elements, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(part is not None for part in view):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return _Storage(dtype, str(key), int(elements))


# A pickle can call this with any argument, so it checks and only describes.
def _tensor_of(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    tensor = StoredTensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or (0 not in tensor.shape and last >= storage.elements):
        raise pickle.UnpicklingError("a tensor beyond its storage")
    return tensor


class Checkpoint:
    """An opened checkpoint. ``root`` is what was saved: ``StoredTensor`` for tensors, ``Foreign`` for objects."""

    def __init__(self, path: str | Path) -> None:
        """Raises ``FileNotFoundError``, or ``ValueError`` for a file that is not a checkpoint of torch."""
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file, expected a checkpoint written by torch.save")
        self._entries: dict[str, str] = {}
        self._places: dict[str, int] = {}
        try:
            self.root = self._read()
        except Exception as error:  # a damaged pickle can raise anything
            raise ValueError(
                f"{self.path}: cannot be read as a checkpoint of torch.save "
                f"({str(error) or type(error).__name__}); take the file that the authors published or download it again"
            ) from error

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read one tensor: contiguous, on the CPU, in the type it was saved with. Raises ``ValueError`` if cut off."""
        dtype, key, elements = stored.storage
        if math.prod(stored.shape) > elements:
            raise ValueError(
                f"{self.path}: got a weight of shape {list(stored.shape)} with {elements} stored values only"
            )
        size = elements * dtype.itemsize
        if self._entries:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._entry(key)) as stream:
                content = stream.read(size)
        else:
            with self.path.open("rb") as stream:
                stream.seek(self._place(key))
                content = stream.read(size)
        if len(content) != size:
            raise ValueError(f"{self.path}: got {len(content)} bytes of a weight, expected {size}; download it again")
        if not size:
            return torch.empty(stored.shape, dtype=dtype)
        flat = torch.frombuffer(bytearray(content), dtype=dtype)
        return flat.as_strided(stored.shape, stored.strides, stored.offset).contiguous()

    def _read(self) -> Any:
        if zipfile.is_zipfile(self.path):
            return self._read_zip()
        with self.path.open("rb") as stream:
            if stream.read(len(ZIP_BEGIN)) == ZIP_BEGIN:
                raise ValueError(f"truncated: a zip file of {self.path.stat().st_size} bytes without its end")
        return self._read_legacy()

    def _read_zip(self) -> Any:
        with zipfile.ZipFile(self.path) as archive:
            names = archive.namelist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("a zip file with compressed entries")
            roots = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")]
            if len(roots) != 1 or f"{roots[0]}constants.pkl" in names:
                raise ValueError("a zip file of another kind")
            if f"{roots[0]}byteorder" in names and archive.read(f"{roots[0]}byteorder") != b"little":
                raise ValueError("written on a big-endian machine")
            folder = f"{roots[0]}data/"
            self._entries = {name.removeprefix(folder): name for name in names if name.startswith(folder)}
            with archive.open(f"{roots[0]}data.pkl") as stream:
                return _Reader(stream).load()

    def _read_legacy(self) -> Any:
        with self.path.open("rb") as stream:
            if _Reader(stream).load() != LEGACY_MAGIC or _Reader(stream).load() != LEGACY_PROTOCOL:
                raise ValueError("a pickle of another kind")
            if not _Reader(stream).load().get("little_endian"):
                raise ValueError("written on a big-endian machine")
            reader = _LegacyReader(stream)
            root = reader.load()
            self._find_storages(stream, [str(key) for key in _Reader(stream).load()], reader.item_sizes)
        return root

    def _find_storages(self, stream: IO[bytes], keys: list[str], item_sizes: Mapping[str, int]) -> None:
        """Storages follow one another in the order of ``keys``: eight bytes for the count, then the elements."""
        for key in keys:
            count = int.from_bytes(stream.read(8), "little")
            self._places[key] = stream.tell()
            stream.seek(count * item_sizes[key], 1)

    def _entry(self, key: str) -> str:
        if key not in self._entries:
            raise ValueError(f"{self.path}: lacks the content of weight storage {key}; download it again")
        return self._entries[key]

    def _place(self, key: str) -> int:
        if key not in self._places:
            raise ValueError(f"{self.path}: lacks the content of weight storage {key}; download it again")
        return self._places[key]


class _LegacyReader(_Reader):
    """Also notes how large the elements of each storage are: the file itself does not say."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.item_sizes: dict[str, int] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        storage = super().persistent_load(pid)
        self.item_sizes[storage.key] = storage.dtype.itemsize
        return storage


class OfficialWeights(NamedTuple):
    """weights: tensors by the names inside the model. ignored: names of everything else in the file."""

    weights: dict[str, Tensor]
    ignored: list[str]


def official_weights(path: str | Path, section: str, prefixes: tuple[str, ...]) -> OfficialWeights:
    """The weights of one model in an official checkpoint.

    section: key of the state dict in the file (a file that is itself a state dict will do). prefixes: what official
    files put before the model's names, tried in order; the first that any name carries is stripped, names without it
    are ignored. Raises ``FileNotFoundError``, or ``ValueError`` for a damaged file or one without such weights.
    """
    checkpoint = Checkpoint(path)
    root = checkpoint.root
    if not isinstance(root, dict):
        raise ValueError(f"{path}: got a saved {type(root).__name__}, expected a dictionary with {section!r}")
    state, ignored = root, []
    if isinstance(root.get(section), dict):
        state, ignored = root[section], [str(name) for name in root if name != section]
    stored = {str(name): value for name, value in state.items() if isinstance(value, StoredTensor)}
    ignored += [str(name) for name in state if str(name) not in stored]
    prefix = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in stored)), None)
    if prefix is None:
        shown = ", ".join(list(stored)[:3]) or "none"
        named = "" if "" in prefixes else f" named {prefixes[0]}*"
        raise ValueError(f"{path}: got no weights{named} under {section!r}, expected some; its weights are: {shown}")
    ignored += [name for name in stored if not name.startswith(prefix)]
    weights = {
        name.removeprefix(prefix): checkpoint.tensor(value) for name, value in stored.items() if name.startswith(prefix)
    }
    return OfficialWeights(weights, ignored)
