"""Know Your Neighbors, text tower included, for the parity check."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from artifacts import seeded_tensor
from official import Arrays, fill, image_rays, image_tensor, tensor
from torch.nn import functional

from kyn_models.geometry import View, project, sample, sample_colours
from kyn_models.models.kyn import Encoded, Kyn, KynConfig, KynField
from kyn_models.networks.clip_text import ClipText, ClipTextConfig
from kyn_models.networks.clip_tokenizer import tokenize, tokenizer
from kyn_models.render import ray_points, render, z_samples

CLIP = "encoder.vlseg_encoder.clip_pretrained."
INPUTS = frozenset({"image", "K_norm", "query_xyz", "feature_pixels_yx", "ray_ids", "labels"})


@lru_cache(maxsize=1)
def _model(folder: Path, salt: str) -> Kyn:
    """CLIP's text tower stands where the checkpoint has it; a deployed model has none."""
    model = Kyn(KynConfig()).eval()
    model.encoder.vlseg_encoder.clip_pretrained = ClipText(ClipTextConfig()).eval()
    unused = (CLIP + "visual.", CLIP + "logit_scale")
    fill(model, folder / "state_dict.json", "code_xyz.", salt, ours=("text_features",), unused=unused)
    return model


@lru_cache(maxsize=1)
def _encoded(folder: Path, salt: str, image: bytes, rows: int, labels: tuple[str, ...]) -> Encoded:
    """Cases that share their image are encoded once."""
    model = _model(folder, salt)
    model.text_features.copy_(model.encoder.vlseg_encoder.clip_pretrained(torch.from_numpy(_tokens(labels))))
    pixels = np.frombuffer(image, np.uint8).reshape(rows, -1, 3)
    return model.encoder(image_tensor(pixels), model.text_features)


def _tokens(labels: tuple[str, ...]) -> np.ndarray:
    return tokenize(labels, tokenizer())


@torch.inference_mode()
def outputs(case: Arrays, name: str, folder: Path, salt: str) -> Arrays:
    """Features, labels, the field at points in one call, and rays in one call."""
    if name.endswith("_points"):
        return _at_points(name.removesuffix("_points"), folder, salt)
    model, encoded, field = _conditioned(case, folder, salt)
    bias = seeded_tensor("mlp_coarse.lin_out.bias", (1,), salt)
    model.mlp_coarse.lin_out.bias.copy_(torch.from_numpy(bias) if name != "case1" else torch.tensor([-4.0]))
    points, rays, z = tensor(case["query_xyz"]), tensor(case["rays"]), torch.from_numpy(case["z_samples"])
    origins, directions = rays[..., :3], rays[..., 3:6]
    view = View(image_tensor(case["image"]), field.k_norm, field.camera_from_world)
    sigma, outside = field.density(points)
    colours, unseen = sample_colours([view], points)
    weights = render(field, origins, directions, z).weights
    ray_colours, _ = sample_colours([view], ray_points(origins, directions, z))
    size = encoded.features.shape[2:]
    language = functional.interpolate(encoded.language, size=size, mode="bilinear", align_corners=False)
    rows, columns = case["feature_pixels_yx"].T
    return {
        "text_features": model.text_features.numpy(),
        "vl_features": language[0, :, rows[:100], columns[:100]].T.numpy(),
        "seg_logits": encoded.logits[0, :, rows, columns].T.numpy(),
        "fused_features": encoded.features[0, :, rows, columns].T.numpy(),
        "seg_mask": field.labels[0].numpy().astype(np.uint8),
        "sigma": sigma[0, :, None].numpy(),
        "invalid": (unseen[0] | outside[0, :, None]).float().numpy(),
        "rgb": colours[0].flatten(1).numpy(),
        "rays": image_rays(case, np.eye(4)),
        "z_samples": z_samples(model.config.z_near, model.config.z_far, len(z)).numpy(),
        "ray_depth": (weights * z).sum(-1)[0].numpy(),
        "ray_rgb": (weights.unsqueeze(-1) * ray_colours.view(*weights.shape, 3)).sum(-2)[0].numpy(),
    }


def _conditioned(case: Arrays, folder: Path, salt: str) -> tuple[Kyn, Encoded, KynField]:
    image, labels = case["image"], tuple(case["labels"].tolist())
    encoded = _encoded(folder, salt, image.tobytes(), len(image), labels)
    model = _model(folder, salt)
    field = model.field(encoded.features, encoded.logits.argmax(dim=1), tensor(case["K_norm"]), torch.eye(4)[None])
    return model, encoded, field


def _at_points(name: str, folder: Path, salt: str) -> Arrays:
    """What the point network gets at the points of another case."""
    with np.load(folder / f"{name}.npz") as stored:
        case = dict(stored)
    model, _, field = _conditioned(case, folder, salt)
    uv, z, _ = project(field.k_norm, tensor(case["query_xyz"]))
    near, far = 1 / model.config.z_near, 1 / model.config.z_far
    nearness = 2 * (1 / z.clamp(min=1e-3) - far) / (near - far) - 1
    return {
        "fused_at_query": sample(field.features, uv)[0].numpy(),
        "code_at_query": model.code_xyz(torch.cat([uv, nearness.unsqueeze(-1)], dim=-1))[0].numpy(),
        "label_at_query": field.label_at(uv)[0].numpy().astype(np.uint8),
    }
