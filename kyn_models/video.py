"""Pictures to an H.264 video with PyAV."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kyn_models.types import UInt8Array


def write_video(path: str | Path, pictures: Iterable[UInt8Array], rate_hz: int = 10) -> int:
    """Write (H, W, 3) uint8 RGB pictures, all of one even size, one video frame each. Returns their number.

    The video appears under its name once it is whole; what an interruption leaves is removed. The name's ending says
    the format. Raises ``ValueError`` without pictures, ``ModuleNotFoundError`` without PyAV.
    """
    import av

    path = Path(path)
    scratch = path.with_name(f"{path.stem}.part{path.suffix}")
    count = 0
    try:
        with av.open(str(scratch), "w") as container:
            stream = None
            for picture in pictures:
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate_hz, options={"crf": "20", "preset": "veryfast"})
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                count += 1
            if stream is None:
                raise ValueError(f"{path}: got no picture, expected at least one")
            container.mux(stream.encode())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return count
