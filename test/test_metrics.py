"""Scores: the published numbers, hand-counted cells and pixels, and the special values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kyn_models.metrics import (
    depth_scores,
    far_cut_row,
    far_cut_scores,
    object_scores,
    occupancy_scores,
)


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_published_scores(shared_data: Path, case: str) -> None:
    with np.load(shared_data.parent / "golden" / "occupancy_metric" / f"{case}.npz") as golden:
        frame = golden["predicted"], golden["occupied"], golden["visible"]
        np.testing.assert_allclose(occupancy_scores(*frame), golden["scene_scores"], atol=1e-3)
        np.testing.assert_allclose(object_scores(*frame, golden["object_map"]), golden["object_scores"], atol=1e-3)
        np.testing.assert_allclose(far_cut_scores(*frame), golden["scene_scores_far_cut"], atol=1e-3)
        assert far_cut_row(golden["visible"]) == int(golden["far_cut_row"])


def test_occupancy_scores_by_hand() -> None:
    occupied = np.array([[True, True, False, False, True]])
    visible = np.array([[False, False, False, True, True]])  # truth: occupied, occupied, free, free, free
    predicted = np.array([[True, False, True, False, False]])
    scores = occupancy_scores(predicted, occupied, visible)
    assert scores == pytest.approx((3 / 5, 1 / 3, 0 / 1))


def test_scores_of_cells_that_do_not_exist_are_nan() -> None:
    seen = np.ones((2, 3), dtype=bool)
    scores = occupancy_scores(~seen, ~seen, seen)
    assert scores.o_acc == 1.0 and np.isnan(scores.ie_acc) and np.isnan(scores.ie_rec)
    assert far_cut_row(~seen) is None
    assert np.isnan(far_cut_scores(seen, seen, ~seen)).all()
    assert np.isnan(object_scores(seen, seen, ~seen, np.full((2, 3), 255, np.uint8))).all()


def test_far_cut_keeps_two_metres_beyond_the_farthest_visible_row() -> None:
    visible = np.zeros((60, 4), dtype=bool)
    visible[35:, 2] = True
    assert far_cut_row(visible) == 15
    visible[7, 0] = True
    assert far_cut_row(visible) == 0


def test_wrong_arrays_are_refused() -> None:
    good = np.zeros((2, 3), dtype=bool)
    with pytest.raises(ValueError, match=r"visible: got bool \(3, 2\), expected bool \(2, 3\)"):
        occupancy_scores(good, good, good.T)
    with pytest.raises(ValueError, match="predicted: got float64"):
        occupancy_scores(good.astype(float), good, good)
    with pytest.raises(ValueError, match="predicted depth"):
        depth_scores(np.zeros(3), np.zeros(4))


def test_depth_scores_by_hand() -> None:
    truth = np.array([10.0, 20.0, 2.0, 90.0, np.nan, 40.0])
    scores = depth_scores(np.array([11.0, 10.0, 5.0, 5.0, 5.0, 40.0]), truth)
    assert scores.pixels == 3 and scores.capped == 0  # 3 to 80 m only
    assert scores.abs_rel == pytest.approx((0.1 + 0.5 + 0) / 3)
    assert scores.sq_rel == pytest.approx((0.1 + 5.0 + 0) / 3)
    assert scores.rmse == pytest.approx(np.sqrt((1 + 100) / 3))
    assert scores.rmse_log == pytest.approx(np.sqrt((np.log(1.1) ** 2 + np.log(2) ** 2) / 3))
    assert (scores.a1, scores.a2, scores.a3) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_infinite_and_missing_predictions_score_as_the_cap_and_are_counted() -> None:
    truth = np.full(4, 40.0)
    scores = depth_scores(np.array([np.inf, np.nan, 100.0, 40.0]), truth)
    assert scores.abs_rel == pytest.approx(0.75) and scores.capped == 2


def test_no_truth_is_nan_not_zero() -> None:
    scores = depth_scores(np.ones(3), np.full(3, np.nan))
    assert np.isnan(scores[:7]).all() and scores.pixels == 0
