"""CLIP's text tower against the authors' text features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need the train extra")
pytest.importorskip("instant_clip_tokenizer", reason="CLIP's vocabulary needs the labels extra")

from artifacts import seeded_tensor  # noqa: E402

from kyn_models.networks.clip_text import ClipText, ClipTextConfig, config_of  # noqa: E402
from kyn_models.networks.clip_tokenizer import END, START, tokenize, tokenizer  # noqa: E402

PREFIX = "encoder.vlseg_encoder.clip_pretrained."
TINY = ClipTextConfig(width=64, heads=1, layers=2, context=9, out=12)


def official_names(golden: Path) -> dict[str, tuple[int, ...]]:
    """Name to shape of the text tower: CLIP without its image tower and without the scale of its logits."""
    names = json.loads((golden / "kyn" / "state_dict.json").read_text())
    tower = {name.removeprefix(PREFIX): tuple(shape) for name, (shape, _) in names.items() if name.startswith(PREFIX)}
    return {name: shape for name, shape in tower.items() if not name.startswith("visual.") and name != "logit_scale"}


def tiny() -> ClipText:
    torch.manual_seed(1)
    model = ClipText(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_names_and_shapes_are_official(golden: Path) -> None:
    with torch.device("meta"):
        model = ClipText(ClipTextConfig())
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == official_names(golden)
    assert config_of(model.state_dict()) == ClipTextConfig()


def test_text_features_of_the_published_labels(golden: Path) -> None:
    weights = {
        name: torch.from_numpy(np.asarray(seeded_tensor(PREFIX + name, shape)))
        for name, shape in official_names(golden).items()
    }
    model = ClipText(ClipTextConfig())
    model.load_state_dict(weights)
    with np.load(golden / "kyn" / "case0.npz") as case, torch.inference_mode():
        labels, expected = case["labels"].tolist(), case["text_features"]
        got = model.eval()(torch.from_numpy(tokenize(labels, tokenizer())))
    assert expected.shape == (21, 512) and np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(got.numpy(), expected, atol=5e-4)


def test_only_what_stands_before_the_end_counts() -> None:
    model, tokens = tiny(), torch.tensor([[START, 5, 7, END, 0, 0, 0, 0, 0]])
    other = tokens.clone()
    other[0, 6] = 9
    earlier = tokens.clone()
    earlier[0, 1] = 6
    with torch.inference_mode():
        features = model(torch.cat([tokens, other, earlier]))
    assert features.shape == (3, 12)
    torch.testing.assert_close(features[0], features[1])
    assert (features[0] - features[2]).abs().max() > 0.01


def test_shapes_tell_the_configuration() -> None:
    weights = tiny().state_dict()
    assert config_of(weights) == TINY
    del weights["text_projection"]
    with pytest.raises(ValueError, match="text_projection"):
        config_of(weights)
