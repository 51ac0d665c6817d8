"""The vision transformer: blocks as they are written down, and any size of image."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from artifacts import seed_by_name
from torch import Tensor
from torch.nn import functional

from kyn_models.networks.vit import VisionTransformer, VitConfig

CONFIG = VitConfig(width=24, depth=3, heads=3, patch=4, size=16)


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    made = VisionTransformer(CONFIG).eval()
    seed_by_name(made)
    return made


def image(rows: int = 16, columns: int = 16) -> Tensor:
    return torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(0))


def by_the_book(model: VisionTransformer, x: Tensor, blocks: int) -> Tensor:
    """Equations 1 to 3 of the paper, one image, a head and a patch at a time."""
    rows, columns = (size // 4 for size in x.shape[1:])
    patches = [x[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].reshape(-1) for r in range(rows) for c in range(columns)]
    embed, size = model.patch_embed.proj, CONFIG.width // CONFIG.heads
    places = torch.stack(patches) @ embed.weight.flatten(1).T + embed.bias
    tokens = torch.cat([model.cls_token[0], places]) + model.pos_embed[0]
    for block in model.blocks[:blocks]:
        normed = block.norm1(tokens)
        q, k, v = block.attn.qkv(normed).split(CONFIG.width, dim=-1)
        heads = []
        for head in range(CONFIG.heads):
            part = slice(head * size, (head + 1) * size)
            heads.append((q[:, part] @ k[:, part].T / size**0.5).softmax(dim=-1) @ v[:, part])
        tokens = tokens + block.attn.proj(torch.cat(heads, dim=-1))
        normed = block.mlp.fc1(block.norm2(tokens))
        tokens = tokens + block.mlp.fc2(normed * 0.5 * (1 + torch.erf(normed / 2**0.5)))
    return tokens


@torch.inference_mode()
def test_blocks_by_the_book(model: VisionTransformer) -> None:
    asked = image()
    first, last = model(asked, (0, 2))
    assert first.shape == (2, 17, 24) and not torch.allclose(first, last, atol=0.1)
    for index in range(2):
        torch.testing.assert_close(first[index], by_the_book(model, asked[index], 1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last[index], by_the_book(model, asked[index], 3), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_positions_are_resized_row_by_row(model: VisionTransformer) -> None:
    torch.testing.assert_close(model.positions(4, 4), model.pos_embed)
    wide = model.positions(2, 8)
    assert wide.shape == (1, 17, 24) and torch.equal(wide[:, :1], model.pos_embed[:, :1])
    expected = functional.interpolate(
        model.pos_embed[0, 1:].T.reshape(1, 24, 4, 4), size=(2, 8), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(wide[0, 1:].T.reshape(24, 2, 8), expected[0])
    assert model(image(8, 32), (1,))[0].shape == (2, 17, 24)


@torch.inference_mode()
def test_blocks_behind_the_last_tap_and_the_classifier_do_not_count(model: VisionTransformer) -> None:
    before = model(image(), (1,))[0]
    other = VisionTransformer(CONFIG).eval()
    other.load_state_dict(model.state_dict())
    for part in (other.blocks[2], other.norm, other.head):
        for parameter in part.parameters():
            parameter.add_(1)
    torch.testing.assert_close(other(image(), (1,))[0], before)
