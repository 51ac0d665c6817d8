"""The positional code by its definition, and the network at a point."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need the train extra")

from kyn_models.networks.point_mlp import PositionalCode, ResnetFC  # noqa: E402


def test_code_by_its_definition() -> None:
    """[u, v, z', then per frequency 1.5 * 2^k: three sines, three cosines]."""
    x = np.random.default_rng(1).uniform(-1, 1, (50, 3))
    columns = [x]
    for k in range(6):
        columns += [np.sin(1.5 * 2**k * x), np.cos(1.5 * 2**k * x)]
    code = PositionalCode(6, 1.5)
    got = code(torch.tensor(x, dtype=torch.float32))
    assert code.size == 39
    np.testing.assert_allclose(got, np.concatenate(columns, axis=1), atol=2e-5)
    np.testing.assert_allclose(code.frequencies, 1.5 * 2.0 ** np.arange(6))


def test_columns_of_an_axis() -> None:
    """Exactly the named columns change with an axis."""
    code = PositionalCode(4, 1.5)
    x = torch.tensor([[0.3, -0.2, 0.5]])
    for axis in range(3):
        moved = x.clone()
        moved[0, axis] += 0.1
        changed = (code(x) != code(moved))[0].nonzero()[:, 0].tolist()
        assert changed == code.columns((axis,))
    assert sorted(code.columns((0, 1)) + code.columns((2,))) == list(range(code.size))


def test_code_keeps_float32_under_autocast() -> None:
    code = PositionalCode(6, 1.5)
    x = torch.rand(20, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(code(x), code(x.float())) and code(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("blocks", [0, 2])
def test_network_by_its_definition(blocks: int) -> None:
    mlp = ResnetFC(7, 1, blocks, 8)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    x = torch.randn(11, 7)
    hidden = x @ mlp.lin_in.weight.T + mlp.lin_in.bias
    for block in mlp.blocks:
        inner = hidden.clamp(min=0) @ block.fc_0.weight.T + block.fc_0.bias
        hidden = hidden + inner.clamp(min=0) @ block.fc_1.weight.T + block.fc_1.bias
    expected = hidden.clamp(min=0) @ mlp.lin_out.weight.T + mlp.lin_out.bias
    torch.testing.assert_close(mlp(x), expected, rtol=1e-4, atol=1e-4)
