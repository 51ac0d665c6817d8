"""Scores of multi-frame depth against the published formulas, and who is scored where."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kyn_models.evaluate_frames import Scoring, answers, areas, frames_input, mean_scores, score_frames
from kyn_models.runtimes.frame_queries import FramesAnswer, FramesInput
from kyn_models.types import Intrinsics, Observation, PosedFrame, Sample

K = Intrinsics(20.0, 20.0, 7.5, 3.5, 16, 8)


def published(inverse: np.ndarray, truth: np.ndarray, moving: np.ndarray | None, scoring: Scoring) -> list[float]:
    """The authors' formulas: inverse depths, 0 where there is no truth, masked means."""
    if scoring.median_scaling:
        known = truth > 0
        half = (known.sum() - 1) // 2
        inverse = inverse * (sorted(truth[known])[half] / sorted(inverse[known])[half])
    if scoring.roi is not None:
        top, bottom, left, right = scoring.roi
        inverse, truth = inverse[top:bottom, left:right], truth[top:bottom, left:right]
        moving = None if moving is None else moving[top:bottom, left:right]
    far = 1 / scoring.far_m
    left_out = (truth == 0) | (truth < far)
    if moving is not None:
        left_out |= ~moving
    guess, true = (1 / np.maximum(array, far)[~left_out] for array in (inverse, truth))
    ratio = np.maximum(guess / true, true / guess)
    return [
        np.mean(np.abs(guess - true) / true),
        np.mean((guess - true) ** 2 / true),
        np.sqrt(np.mean((guess - true) ** 2)),
        np.sqrt(np.mean((np.log(guess) - np.log(true)) ** 2)),
        *(np.mean(ratio < 1.25**power) for power in (1, 2, 3)),
    ]


def sample(seed: int, masked: bool = True) -> Sample:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 120, (8, 16)).astype(np.float32)
    depth[rng.random((8, 16)) < 0.3] = np.nan
    depth[0] = np.inf  # sky
    moving = rng.random((8, 16)) < 0.4 if masked else None
    frames = tuple(posed(0.5 * index) for index in range(3))
    return Sample(f"s_{seed}", Observation(frames, np.eye(4)), depth_m=depth, moving=moving)


def posed(x: float, k: Intrinsics = K) -> PosedFrame:
    pose = np.eye(4)
    pose[:3, 3] = 1e6 + x, -2e6, 3e5
    image = np.full((k.height, k.width, 3), round(10 * x), dtype=np.uint8)
    return PosedFrame(image, k, round(1e9 * (1 + x)), pose)


@pytest.mark.parametrize(
    "scoring",
    [
        Scoring(),
        Scoring(far_m=40.0),
        Scoring(roi=(2, 8, 3, 12)),
        Scoring(median_scaling=True),
        Scoring(25.0, (1, 7, 0, 16), True),
    ],
    ids=str,
)
def test_scores_are_the_published_ones(scoring: Scoring) -> None:
    rows, wanted = [], {"all": [], "moving": []}  # type: ignore[var-annotated]
    for seed in range(3):
        item = sample(seed)
        guess = np.random.default_rng(seed + 9).uniform(0.5, 200, (8, 16)).astype(np.float32)
        rows.append(score_frames({"fused": guess}, item, scoring))
        truth = np.where(np.isfinite(item.depth_m), 1 / item.depth_m, 0)
        wanted["all"].append(published(1 / guess, truth, None, scoring))
        wanted["moving"].append(published(1 / guess, truth, item.moving, scoring))
    found = mean_scores(rows)
    for area, numbers in wanted.items():
        np.testing.assert_allclose(found["fused", area][0][:7], np.mean(numbers, axis=0), rtol=1e-5)
    pixels = {area: found["fused", area][0].pixels for area in ("all", "static", "moving")}
    assert pixels["static"] + pixels["moving"] == pixels["all"] > 0


def test_a_wrong_scale_does_not_count_where_medians_are_scaled() -> None:
    item = sample(4)
    truth = np.where(np.isfinite(item.depth_m), item.depth_m, np.float32(7))
    plain = score_frames({"fused": 3 * truth, "mono": truth / 2}, item).scores
    scaled = score_frames({"fused": 3 * truth, "mono": truth / 2}, item, Scoring(median_scaling=True)).scores
    for answer in ("fused", "mono"):
        assert plain[answer, "all"].abs_rel > 0.2 and scaled[answer, "moving"].abs_rel < 1e-6
    nothing = np.full((8, 16), np.nan, dtype=np.float32)
    assert score_frames({"matched": nothing}, item, Scoring(median_scaling=True)).scores["matched", "all"].pixels == 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Scoring(far_m=0.0), "far: got 0.0"),
        (lambda: Scoring(roi=(4, 4, 0, 9)), "roi: got top 4, bottom 4"),
        (lambda: Scoring(roi=(0, 4, -1, 9)), "left -1"),
        (
            lambda: score_frames({}, sample(0), Scoring(roi=(0, 9, 0, 16))),
            "roi: got bottom 9, right 16, expected at most 8",
        ),
    ],
)
def test_wrong_scoring_is_named(wrong, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        wrong()


def test_frames_without_a_mask_count_only_for_all_pixels() -> None:
    guess = np.full((8, 16), 10.0, dtype=np.float32)
    rows = [score_frames({"fused": guess}, sample(seed, masked=seed == 0)) for seed in range(3)]
    assert [row.masked for row in rows] == [True, False, False]
    found = mean_scores(rows)
    assert [found["fused", area][1] for area in ("all", "static", "moving")] == [3, 1, 1]


def test_cost_volume_is_scored_where_it_says_something_and_fused_beside_it() -> None:
    item = sample(1)
    truth = np.where(np.isfinite(item.depth_m), item.depth_m, np.float32(5))
    matched = truth.copy()
    matched[:, 8:] = np.nan
    row = score_frames({"fused": 2 * truth, "mono": truth, "matched": matched}, item).scores
    assert row["matched", "all"].abs_rel == 0 and row["matched", "all"].capped == 0
    assert row["matched", "all"].pixels == row["fused where matched", "all"].pixels < row["fused", "all"].pixels
    assert row["fused where matched", "all"].a1 < 0.5 and row["mono", "all"].a1 == 1
    # A network's answer that is no number is the farthest one, not left out.
    assert score_frames({"fused": np.full((8, 16), np.nan, "f4")}, item).scores["fused", "all"].capped > 0


def test_areas() -> None:
    moving = np.zeros((2, 2), dtype=bool)
    moving[0, 0] = True
    found = areas(moving, (2, 2))
    assert found["moving"].sum() == 1 and found["static"].sum() == 3 and found["all"].all()
    assert not areas(None, (2, 2))["static"].any()


class Runtime:
    """Answers that tell what was asked."""

    name, precision, library = "stand-in", "float32", "numpy"

    def depth(self, frames: FramesInput, wanted: frozenset[str] = frozenset()) -> FramesAnswer:
        self.asked = frames
        mono = np.full(frames.image.shape[:2], 7.0, dtype=np.float32)
        fused = mono + len(frames.neighbours) if len(frames.neighbours) else None
        return FramesAnswer(fused, mono, None, {})


def test_runtimes_get_images_and_relative_poses_from_far_away_maps() -> None:
    runtime, item = Runtime(), sample(2)
    found = answers(runtime, item.observation)
    assert sorted(found) == ["fused", "mono"] and (found["fused"] == 9).all()
    asked = runtime.asked
    assert asked.neighbours.shape == (2, 8, 16, 3) and asked.neighbour_from_key.dtype == asked.k.dtype == np.float32
    np.testing.assert_allclose(asked.neighbour_from_key[:, 0, 3], (-0.5, -1.0), atol=1e-6)
    assert (asked.image == 0).all() and (asked.neighbours[1] == 10).all()
    alone = answers(runtime, dataclasses.replace(item.observation, frames=item.observation.frames[:1]))
    assert list(alone) == ["mono"] and runtime.asked.neighbour_from_key.shape == (0, 4, 4)


def test_frames_that_do_not_fit_are_named() -> None:
    key = posed(0.0)
    unposed = dataclasses.replace(posed(1.0), world_from_camera=None)
    with pytest.raises(ValueError, match="2000000000 ns: got no pose"):
        frames_input(Observation((key, unposed), np.eye(4)))
    other = posed(1.0, dataclasses.replace(K, fx=25.0))
    with pytest.raises(ValueError, match="got 16x8 pixels, fx 25.0.*expected 16x8 pixels, fx 20.0"):
        frames_input(Observation((key, other), np.eye(4)))
    with pytest.raises(ValueError, match="got no depth_m"):
        score_frames({}, dataclasses.replace(sample(0), depth_m=None))
