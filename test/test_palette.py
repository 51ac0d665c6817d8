"""Class colours: stable per word, familiar for the published names, apart from one another."""

import numpy as np
import pytest

from kyn_models.palette import FAMILIAR, UNLABELLED, UNLABELLED_COLOUR, class_colour, class_table, present


def test_a_word_has_one_colour_however_it_is_written_and_wherever_it_stands():
    assert class_colour("Traffic light") == class_colour("traffic-light") == FAMILIAR["trafficlight"]
    assert class_colour("shopping cart") == class_colour("Shopping Cart") != class_colour("stroller")
    names = ("stroller", "road", "car")
    np.testing.assert_array_equal(class_table(names)[1], class_table(("road",))[0])
    np.testing.assert_array_equal(class_table(names)[[UNLABELLED, 3]], [UNLABELLED_COLOUR] * 2)


def test_familiar_colours():
    red, green, blue = FAMILIAR["vegetation"]
    assert green > red and green > blue
    red, green, blue = FAMILIAR["car"]
    assert blue > red and blue > green
    assert np.ptp(FAMILIAR["road"]) < 20 < min(FAMILIAR["road"])


def test_the_published_labels_are_familiar_and_apart(golden):
    names = (golden.parent / "splits" / "kyn_outdoor_labels.txt").read_text().split()
    assert set(names) == set(FAMILIAR)
    table = class_table(tuple(names))[:21].astype(int)
    apart = np.abs(table[:, None] - table[None]).sum(-1) + 1000 * np.eye(21, dtype=int)
    assert apart.min() >= 40


def test_any_255_words_have_colours_that_show_on_dark():
    names = tuple(f"thing {number}" for number in range(255))
    table = class_table(names)[:255]
    assert len(np.unique(table, axis=0)) > 240 and table.max(axis=1).min() > 100
    with pytest.raises(ValueError, match="read-only"):
        class_table(names)[0] = 0


def test_what_is_there_most_frequent_first():
    labels = np.array([[2, 2, 2], [0, 0, UNLABELLED]], np.uint8)
    names = ("car", "bus", "road")
    assert [name for name, _ in present(labels, names)] == ["road", "car", "no class"]
    assert present(np.empty(0, np.uint8), names) == []
