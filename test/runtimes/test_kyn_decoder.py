"""The compiled decoder of Know Your Neighbors: the authors' numbers, torch's numbers, one set however it is split."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is torch")
pytest.importorskip("numba", reason="the decoder needs numba")

from artifacts import TINY_KYN, seed_by_name, seeded_kyn

from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.networks.modulation import ModulatedMLP
from kyn_models.render import composite, surface_depth, z_samples
from kyn_models.runtimes import kyn_decoder, kyn_loops
from kyn_models.runtimes.kyn_constants import ARRAYS, KynConstants
from kyn_models.runtimes.kyn_decoder import KynDecoder
from kyn_models.runtimes.queries import LabelQuery, PointQuery, Query, RayQuery

SIZE = (12, 40)
K_NORM = KITTI360_CAMERA.normalised()


def points(count: int, seed: int = 0) -> np.ndarray:
    """In and around the view, from 1 m to 90 m."""
    return np.random.default_rng(seed).uniform([-30, -2, 1], [30, 3, 90], (count, 3)).astype(np.float32)


def rays() -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-1.1, 1.1, 31), np.linspace(-0.3, 0.2, 7))
    return np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)


class World:
    """A seeded model, what its image network says of a random image, and its field. size: hidden, heads, channels."""

    def __init__(self, hidden: int, heads: int, channels: int) -> None:
        model = seeded_kyn(replace(TINY_KYN, hidden=hidden, heads=heads, head_channels=channels), lin_out_bias=-3.0)
        network, tensors = model.exportable()
        self.arrays = {name: value.numpy() for name, value in tensors.items()} | {"k_norm": K_NORM}
        self.constants = KynConstants.from_arrays(self.arrays)
        generator = torch.Generator().manual_seed(1)
        below = torch.randn(1, TINY_KYN.fused, *SIZE, generator=generator)
        labels = torch.randint(0, 4, (1, SIZE[0] // 4, SIZE[1] // 4), generator=generator)
        labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
        with torch.no_grad():
            self.maps = (network.merged(below)[0].permute(1, 2, 0).contiguous().numpy(), labels[0].byte().numpy())
            features = model.encoder.fuser.fused_reg[2](below)
            self.field = model.field(features, labels, torch.tensor(K_NORM[None]).float(), torch.eye(4)[None])

    def decode(self, queries: Mapping[str, Query]) -> SimpleNamespace:
        prepared = KynDecoder(self.constants, SIZE).prepare(queries)
        return SimpleNamespace(**{name: prepared.decode(name, *self.maps) for name in queries})

    @torch.no_grad()
    def density(self, where: np.ndarray, per_call: int | None = None) -> np.ndarray:
        return self.field.density(torch.from_numpy(where)[None], per_call).sigma[0].numpy()


@pytest.fixture(scope="module")
def world() -> World:
    return World(hidden=24, heads=2, channels=9)


@pytest.mark.parametrize("size", [(16, 2, 8), (24, 2, 9), (128, 4, 32)])
def test_points_and_rays_are_those_of_torch(size: tuple[int, int, int]) -> None:
    """Units and channels of no round number too, which the loops fill up with zeros."""
    world, where = World(*size), points(3001)
    found = world.decode({"sigma": PointQuery(where), "depth": RayQuery(rays()), "labels": LabelQuery(where)})
    expected = world.density(where)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found.sigma, expected, atol=5e-5, rtol=1e-3)
    z = z_samples(TINY_KYN.z_near, TINY_KYN.z_far, 64)
    with torch.no_grad():
        sigma = world.field.along_rays(torch.from_numpy(rays()).reshape(1, -1, 3), z.view(1, 1, -1))
        depth = surface_depth(composite(sigma, z), z).view(rays().shape[:2]).numpy()
    assert np.isfinite(depth).mean() > 0.5
    assert np.array_equal(np.isinf(found.depth), np.isinf(depth))
    np.testing.assert_allclose(found.depth, depth, rtol=1e-3)


def test_the_layout_of_arrays_is_no_reason_to_compile_again(world: World) -> None:
    """Straight from a model they are views, from a file they are not."""
    views = {name: value if value.ndim == 0 else np.repeat(value, 2, 0)[::2] for name, value in world.arrays.items()}
    loops = kyn_loops.sum_points, kyn_loops.points_density, kyn_loops.sum_rays, kyn_loops.rays_depth
    before = [list(loop.signatures) for loop in loops]
    KynDecoder(KynConstants.from_arrays(views), SIZE)
    assert [loop.signatures for loop in loops] == before and all(before)


def test_labels_are_those_of_torch_also_between_pixels(world: World) -> None:
    """Through the pixel centres of an image of half the size: the four nearest pixels are equally near."""
    v, u = np.meshgrid((np.arange(6) + 0.5) / 3 - 1, (np.arange(20) + 0.5) / 10 - 1, indexing="ij")
    directions = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K_NORM).T
    where = np.concatenate([points(3000), directions.reshape(-1, 3).astype(np.float32) * np.float32(7)])
    found = world.decode({"labels": LabelQuery(where)}).labels
    with torch.no_grad():
        from kyn_models.geometry import project

        uv = project(world.field.k_norm, torch.from_numpy(where)[None]).uv
        expected = world.field.label_at(uv)[0].numpy()
    assert found.dtype == np.uint8 and len(np.unique(found)) == 4
    assert np.array_equal(found, expected)
    assert np.array_equal(found[3000:].reshape(6, 20), world.maps[1][1::2, 1::2])


def test_a_set_is_one_however_it_is_split(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts, chunks, kept rows and kept constants are about memory alone; so is the order of the points."""
    where, order = points(5000), np.random.default_rng(5).permutation(5000)
    whole = world.decode({"sigma": PointQuery(where), "depth": RayQuery(rays())})
    for name, value in (("PART", 1024), ("CHUNK", 128), ("KEPT_ROWS", 640), ("KEPT_POINTS", 100)):
        monkeypatch.setattr(kyn_decoder, name, value)
        split = world.decode({"sigma": PointQuery(where), "depth": RayQuery(rays())})
        np.testing.assert_allclose(split.sigma, whole.sigma, rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(split.depth, whole.depth, rtol=2e-5, err_msg=name)
    shuffled = world.decode({"sigma": PointQuery(where[order])}).sigma
    np.testing.assert_allclose(shuffled, whole.sigma[order], rtol=2e-5)


def test_other_points_count(world: World) -> None:
    """The density of a point depends on the set: else the tests of splits would say nothing."""
    where = points(4000)
    whole, half = (world.decode({"sigma": PointQuery(part)}).sigma[:1000] for part in (where, where[:1000]))
    assert np.abs(whole - half).max() > 1e-3


def test_points_per_call_attend_to_each_other_alone(world: World) -> None:
    where = points(2500)
    found = world.decode({"sigma": PointQuery(where, points_per_call=1000)}).sigma
    np.testing.assert_allclose(found, world.density(where, 1000), atol=5e-5, rtol=1e-3)
    for start in (0, 1000, 2000):
        alone = world.decode({"sigma": PointQuery(where[start : start + 1000])}).sigma
        np.testing.assert_allclose(found[start : start + 1000], alone, rtol=2e-5)


def test_outputs_do_not_depend_on_each_other(world: World) -> None:
    queries: dict[str, Query] = {"depth": RayQuery(rays()), "sigma": PointQuery(points(700))}
    both = world.decode(queries)
    for name, query in queries.items():
        assert np.array_equal(getattr(world.decode({name: query}), name), getattr(both, name))


def test_a_set_without_a_point_in_view_and_one_without_points(world: World) -> None:
    behind = points(200) * np.float32([30, 1, 1])
    behind[:, 0] += 3000
    found = world.decode({"sigma": PointQuery(behind), "none": PointQuery(behind[:0])})
    np.testing.assert_allclose(found.sigma, world.density(behind), atol=5e-5, rtol=1e-3)
    assert found.none.shape == (0,)


def test_a_million_voxels_take_at_most_600_mb() -> None:
    """All arrays that grow with the number of points, of the published size."""
    hidden, count = 128, 1 << 20
    rows = min(count, kyn_decoder.KEPT_ROWS) * hidden * 4
    world = World(hidden=16, heads=2, channels=8)
    decoder = KynDecoder(world.constants, SIZE)
    (parts,) = (one.parts() for one in decoder.sets(PointQuery(points(count))))
    constants = sum(array.nbytes for part in parts for array in vars(part).values())
    assert constants <= 24 * count
    assert rows + constants + 4 * count <= 600e6


def test_memory_is_bounded_for_more_points_than_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PART", 1 << 14), ("KEPT_ROWS", 1 << 12), ("KEPT_POINTS", 1 << 14)):
        monkeypatch.setattr(kyn_decoder, name, value)
    taken = []
    for count in (1 << 16, 1 << 18):
        where = points(count)
        prepared = KynDecoder(world.constants, SIZE).prepare({"sigma": PointQuery(where)})
        tracemalloc.start()
        prepared.decode("sigma", *world.maps)
        taken.append(tracemalloc.get_traced_memory()[1] - 4 * count)
        tracemalloc.stop()
    assert taken[1] < 1.2 * taken[0] + 1e5


def test_the_authors_densities(golden: Path) -> None:
    """Their sampled features, codes and labels at 6000 points: here every point has a pixel of its own."""
    with np.load(golden / "kyn/case0.npz") as case, np.load(golden / "kyn/case0_points.npz") as asked:
        text, sigma, invalid = case["text_features"], case["sigma"][:, 0], case["invalid"][:, 0] > 0
        inputs = np.concatenate([asked["fused_at_query"], asked["code_at_query"]], axis=1)
        labels = asked["label_at_query"].reshape(60, 100)
    model = torch.nn.Module()
    model.mlp_coarse = ModulatedMLP(256, 39, 512, 128, 4, 32).eval()
    seed_by_name(model)
    arrays = World(128, 4, 32).arrays | constants_of(model.mlp_coarse, text)
    with torch.no_grad():
        weight, bias = model.mlp_coarse.entry_parameters()
        planes = torch.nn.functional.linear(torch.from_numpy(inputs), weight).numpy().reshape(60, 100, 256)
    arrays |= {"w_code": np.zeros((256, 39)), "bias": bias.numpy(), "k_norm": np.eye(3)}
    v, u = np.meshgrid((np.arange(60) + 0.5) / 30 - 1, (np.arange(100) + 0.5) / 50 - 1, indexing="ij")
    where = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
    # As near as this a point is in nobody's view.
    where[invalid] *= 5e-4
    decoder = KynDecoder(KynConstants.from_arrays(arrays), (60, 100))
    query = {"sigma": PointQuery(where.astype(np.float32))}
    found = decoder.prepare(query).decode("sigma", planes, labels)
    assert 0.05 < invalid.mean() < 0.1 and sigma.std() > 0.01
    np.testing.assert_allclose(found, sigma, atol=2e-5)


def constants_of(mlp: ModulatedMLP, text: np.ndarray) -> dict[str, np.ndarray]:
    """What export makes of a point network."""
    from kyn_models.models.kyn_export import point_constants

    return {name: value.numpy() for name, value in point_constants(mlp, torch.from_numpy(text)).items()}


@pytest.mark.parametrize("name", ["w_2", "w_value", "w_code", "w_context"])
def test_a_file_with_an_array_of_another_size_is_named(world: World, tmp_path: Path, name: str) -> None:
    file = tmp_path / "decoder.npz"
    np.savez(file, **(world.arrays | {name: world.arrays[name][:, 1:]}))
    with pytest.raises(ValueError, match=rf"decoder.npz: got arrays that are not a decoder's \({name}: got shape"):
        KynConstants.load(file)
    np.savez(file, **{other: value for other, value in world.arrays.items() if other != name})
    with pytest.raises(ValueError, match=name):
        KynConstants.load(file)
    assert set(ARRAYS) == set(world.arrays)
