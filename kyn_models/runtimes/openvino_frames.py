"""Depth from posed frames with OpenVINO: the default on CPUs without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kyn_models.artifact import MONO, NETWORK, Artifact
from kyn_models.runtimes.openvino_runtime import compiled
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.runtimes.quiet_openvino import openvino
from kyn_models.runtimes.swept_frames import Ask, Networks, SweptFrames


def load(artifact: Artifact, options: LoadOptions) -> SweptFrames:
    """Compile both networks for the device ("cpu"), in float32 where the precision is ``auto``.

    Half precision would also round what is between the convolutions, which is geometry here. Raises ``RuntimeError``
    or ``ValueError`` if a graph cannot be read or the CPU lacks the precision asked for.
    """
    precision = "float32" if options.precision == "auto" else options.precision
    fuse, mono = (compiled(artifact, name, options.device, precision) for name in (NETWORK, MONO))
    networks = Networks(_ask(fuse), _ask(mono), int(fuse.inputs[1].shape[1]))
    return SweptFrames("openvino", precision, f"OpenVINO {openvino.__version__.split('-')[0]}", artifact, networks)


def _ask(model: openvino.CompiledModel) -> Ask:
    request = model.create_infer_request()

    def ask(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        answer = request.infer(dict(enumerate(inputs)), share_inputs=True, share_outputs=True)
        return [answer[output] for output in model.outputs]

    return ask
