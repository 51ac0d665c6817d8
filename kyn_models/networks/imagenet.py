"""Published ImageNet weights out of torch's cache, where they are downloaded to once. torch."""

from __future__ import annotations

import torch
from torch import Tensor


def imagenet_weights(url: str) -> dict[str, Tensor]:
    """The tensors of a file, checked by the hash at the end of its name.

    Raises ``OSError`` where it is not in the cache and cannot be downloaded.
    """
    try:
        found: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except OSError as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise OSError(
            f"{url}: could not be downloaded ({error}); put that file into {folder}, or set imagenet to false"
        ) from error
    return found
