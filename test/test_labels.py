"""The user's class names: what is a list of them, and which line is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from kyn_models.labels import read_labels


def test_a_file_or_words(tmp_path: Path, golden: Path) -> None:
    assert read_labels("road, traffic light ,car") == ("road", "traffic light", "car")
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffroad\r\n  Straße \r\ncar".encode())
    assert read_labels(str(file)) == ("road", "Straße", "car")
    published = read_labels(str(golden.parent / "splits" / "kyn_outdoor_labels.txt"))
    assert len(published) == 21 and published[0] == "ground" and published[-1] == "others"


def test_a_file_whose_name_has_a_comma(tmp_path: Path) -> None:
    (tmp_path / "a,b").write_text("road\n")
    assert read_labels(str(tmp_path / "a,b")) == ("road",)


@pytest.mark.parametrize(
    "content, words",
    [
        ("road\n\ncar\n", "labels.txt, line 2: is empty"),
        ("road\ncar\n \n", "labels.txt, line 3: is empty"),
        ("road\ncar\ntraffic  light\nTraffic Light\n", "line 4: got 'Traffic Light', which is line 3 already"),
        ("", "got an empty file"),
        ("\n".join(f"thing {number}" for number in range(256)), "got 256 labels, expected 255 at most"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_labels(str(file))


def test_255_labels_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(f"thing {number}" for number in range(255)))
    assert len(read_labels(str(file))) == 255


def test_wrong_words_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--labels, word 2: is empty"):
        read_labels("road,,car")
    with pytest.raises(ValueError, match="--labels, word 3: got 'road', which is word 1 already"):
        read_labels("road,car,road")
    for path in ("labels.txt", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match="expected a file with one label a line"):
            read_labels(path)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="is no text"):
        read_labels(str(tmp_path / "image.png"))
