"""The torch runtime of GPUs: a half precision encoder and a fused decoder, replayed as CUDA graphs.

The encoder is ``model.exportable()``'s, with its batch normalisation folded into its convolutions and its images in
memory channel by channel of a pixel. Convolutions run in the precision asked for; the last one reads their numbers as
they are and delivers float32 (TF32 rounds no activation further, only its weights), and so is everything after it.

The image goes through page-locked memory to the device, and answers come back the same way. The way there with the
encoder is one graph, and so is each query with its way back: a step replays those of the wanted queries one after the
other and waits once. So what is captured does not depend on what is asked together, and the GPU's clock tells the
stages apart. Where a capture fails, the same work is launched piece by piece.

What runs on the device "cpu", without graphs and with ``torch_loops``, is tested against ``PlainTorch``. Streams,
graphs, page-locked memory and half precision on a GPU were not run yet.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kyn_models.artifact import Artifact
from kyn_models.models.loading import load_model
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.queries import Precision, Query, Step, StepOutput
from kyn_models.runtimes.torch_decoder import Places, TorchDecoder
from kyn_models.types import UInt8Array

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
WARM_UPS = 3
"""Runs before a capture: libraries choose their algorithms, kernels are compiled."""
LAUNCHING = threading.Lock()
"""Held while work is launched, captured or waited for: settings of cuDNN belong to the process, not to a thread."""

Work = Callable[[], None]
"""Launches work on the current stream that reads and writes fixed places."""


class FusedTorch:
    """A runtime on a GPU (or, to test it, the CPU). device: "cuda" or "cpu".

    precision: of the convolutions; "auto" is float16 on a GPU and float32 on the CPU. Raises ``ValueError`` for a
    precision that the GPU lacks, and for a point network with blocks, whose decoding cannot be fused.

    One lock serves all threads: while one prepares, the constants of its queries are built and moved without it, so
    that steps of another go on; they wait only while the new queries are warmed up and captured. The arrays of a step
    lie where the next answers of the same step will be: copy what must outlast it.
    """

    name = "torch"

    def __init__(self, artifact: Artifact, device: str = "cuda", precision: Precision = "auto") -> None:
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        self.precision = precision if precision != "auto" else "float16" if on_gpu else "float32"
        if self.precision == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError("precision: got bfloat16, which this GPU lacks, expected float16 or float32")
        self.library = f"torch {torch.__version__}" + (f" on {torch.cuda.get_device_name()}" if on_gpu else "")
        model: Any = load_model(artifact)
        network, constants = model.exportable()
        self._encoder = FusedEncoder(network, DTYPES[self.precision]).to(self._device)
        self._stream = torch.cuda.Stream() if on_gpu else None
        self._graphs = on_gpu
        # Nothing in it outlasts a replay, and replays wait for each other: all graphs share one pool.
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None
        shape = (artifact.camera.height, artifact.camera.width, 3)
        self._host_image = torch.zeros(shape, dtype=torch.uint8, pin_memory=on_gpu)
        self._image = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        with self._launching():
            self._features = torch.zeros_like(self._encoder(self._image))
            self._wait()
            self._encode = self._recorded(self._upload_and_encode)
            numbers = _decoder_constants(constants, artifact.camera.k_norm)
            self._decoder = TorchDecoder(numbers, self._features.shape[:2], self._device)

    def prepare(self, queries: Mapping[str, Query]) -> Step:
        """Build the constants of all queries on the device, warm every query up and capture it; from any thread."""
        places = {name: self._decoder.place(query) for name, query in queries.items()}
        on_gpu = self._stream is not None
        answers = {name: torch.empty(place.shape, pin_memory=on_gpu) for name, place in places.items()}
        with self._launching():
            works = {
                name: self._recorded(self._query_and_download(query, places[name], answers[name]))
                for name, query in queries.items()
            }

        def step(image: UInt8Array, wanted: frozenset[str]) -> StepOutput:
            with self._launching():
                np.copyto(self._host_image.numpy(), image)
                stages = self._run({"encode": self._encode} | {name: works[name] for name in sorted(wanted)})
                return StepOutput({name: answers[name].numpy() for name in wanted}, stages)

        return step

    def _upload_and_encode(self) -> None:
        self._image.copy_(self._host_image, non_blocking=True)
        self._features.copy_(self._encoder(self._image))

    def _query_and_download(self, query: Query, places: Places, answer: Tensor) -> Work:
        def work() -> None:
            self._decoder.answer(query, places, self._features.view(-1, self._features.shape[-1]))
            answer.view(-1).copy_(places.answer, non_blocking=True)

        return work

    def _run(self, works: Mapping[str, Work]) -> dict[str, float]:
        """Launch all, wait once (on the CPU each is done when it returns): milliseconds of each."""
        marks = [self._mark()]
        for work in works.values():
            work()
            marks.append(self._mark())
        self._wait()
        return {
            name: float(begin.elapsed_time(end)) if self._stream is not None else (end - begin) * 1e3
            for name, begin, end in zip(works, marks, marks[1:], strict=False)
        }

    def _mark(self) -> Any:
        if self._stream is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def _recorded(self, work: Work) -> Work:
        """The same work as one graph, after it ran a few times; the work itself where there are no graphs."""
        if self._stream is None:
            return work
        for _ in range(WARM_UPS):
            work()
        self._wait()
        if not self._graphs:
            return work
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate and copy while this one captures.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        except Exception as error:  # of torch, of Triton, of the driver: they share no base
            self._graphs = False
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("runtime torch: no CUDA graph can be captured (%s); launching piece by piece", reason)
            return work
        return graph.replay

    @contextlib.contextmanager
    def _launching(self) -> Iterator[None]:
        """The lock, this runtime's stream, no gradients, and cuDNN as the precision wants it."""
        exact = self.precision == "float32"
        stream = torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext()
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=not exact)
        with LAUNCHING, torch.inference_mode(), stream, flags:
            yield


class FusedEncoder(nn.Module):
    """(H, W, 3) uint8 image to the contiguous (h, w, hidden) float32 pre-activation map.

    network: the image network of ``exportable`` (an encoder with its decoder, and the last convolution as ``merged``);
    it is changed. dtype: of all convolutions but the last.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        parts: Any = network
        self._encoder = fold_batch_norm(parts.network.encoder).to(dtype, memory_format=torch.channels_last)
        self._decoder = parts.network.decoder.to(dtype, memory_format=torch.channels_last)
        self._last = parts.merged.to(memory_format=torch.channels_last)
        first = next(layer for layer in self._encoder.modules() if isinstance(layer, nn.Conv2d))
        # Encoders normalise the image first: that is done in float32, and what comes out is rounded once.
        first.register_forward_pre_hook(lambda layer, inputs: (inputs[0].to(dtype),))

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(2, 0, 1).unsqueeze(0).float() / 255
        trunk = self._decoder.trunk(self._encoder(pixels)).float()
        padded = functional.pad(trunk, (1, 1, 1, 1), mode="reflect").contiguous(memory_format=torch.channels_last)
        return self._last(padded)[0].permute(1, 2, 0).contiguous()


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Merge every batch normalisation into the convolution before it, in place, and return the network.

    A module registers a batch normalisation right after the convolution that feeds it; raises ``ValueError`` for one
    without such a convolution.
    """
    for module in network.modules():
        before = ("", None)
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                convolution = before[1]
                if not isinstance(convolution, nn.Conv2d) or convolution.out_channels != layer.num_features:
                    raise ValueError(f"encoder: got batch normalisation {name!r} without a convolution before it")
                setattr(module, before[0], fuse_conv_bn_eval(convolution, layer))
                setattr(module, name, nn.Identity())
            before = (name, layer)
    return network


def _decoder_constants(tensors: Mapping[str, Tensor], k_norm: np.ndarray) -> DecoderConstants:
    """From the tensors of ``exportable`` and the camera: what ``decoder.npz`` would hold."""
    numbers = {name: tensor.numpy() for name, tensor in tensors.items()}
    return DecoderConstants.from_arrays(numbers | {"k_norm": k_norm})
