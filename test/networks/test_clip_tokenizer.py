"""CLIP's tokenizer: numbers of the real vocabulary, and our own encoding of a vocabulary file."""

from __future__ import annotations

import gzip
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from kyn_models.networks import clip_tokenizer
from kyn_models.networks.clip_tokenizer import END, MERGES, START, read_merges, split_words, tokenize, tokenizer

KNOWN = {
    "A person riding a motorcycle": [320, 2533, 6765, 320, 10297],
    "Hi there": [1883, 997],
    "  a \t PHOTO  of a dog ": [320, 1125, 539, 320, 1929],
    "road &amp; car's": [1759, 261, 1615, 568],
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the published form: merges for "road" in a known order, then random ones that often apply."""
    rng = random.Random(1)
    merges = [("r", "o"), ("a", "d</w>"), ("ro", "ad</w>"), ("o", "a")]
    made = {left + right for left, right in merges}
    starts = list("abcdefghijklmnopqrstuvwxyz")
    ends = [letter + "</w>" for letter in starts]
    while len(merges) < MERGES:
        left, right = rng.choice(starts), rng.choice(rng.choice([starts, ends]))
        if left + right not in made:
            made.add(left + right)
            merges.append((left, right))
            if len(left + right) < 9:
                (ends if right.endswith("</w>") else starts).append(left + right)
    path = tmp_path_factory.mktemp("vocabulary") / "bpe.txt.gz"
    lines = ["heading", *(" ".join(merge) for merge in merges), "beyond counted"]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_numbers_of_the_real_vocabulary() -> None:
    pytest.importorskip("instant_clip_tokenizer", reason="CLIP's vocabulary needs the labels extra")
    encode = tokenizer()
    assert {text: encode(text) for text in KNOWN} == KNOWN


def test_own_encoding_by_hand(vocabulary: Path) -> None:
    """Merges are numbered from 512 on; bytes by their letters ("!" is 0), 256 higher at the end of a word."""
    encode = tokenizer(vocabulary)
    assert encode("Road") == [514]
    assert encode("! z") == [256, 256 + ord("z") - ord("!")]
    assert encode("") == []


def test_own_encoding_agrees_with_the_package(vocabulary: Path) -> None:
    package = pytest.importorskip("instant_clip_tokenizer", reason="CLIP's vocabulary needs the labels extra")
    plain = vocabulary.with_suffix("")
    plain.write_bytes(gzip.decompress(vocabulary.read_bytes()))
    own, other = tokenizer(vocabulary), package.Tokenizer.load(str(plain), END + 1)
    rng = random.Random(2)
    texts = ["".join(rng.choices("abcdeiorst  -'.!012éß日", k=24)) for _ in range(300)] + ["don't we'll it's", "a_b"]
    for text in texts:
        assert own(text) == other.encode(clip_tokenizer.clean(text)), text
    assert tokenizer(plain)("road car") == own("road car")


def test_words() -> None:
    assert split_words("don't park 12 cars!") == ["don", "'t", "park", "1", "2", "cars", "!"]
    assert split_words("'re x² -- ü") == ["'re", "x", "²", "--", "ü"]


def test_tokens_of_a_batch(vocabulary: Path) -> None:
    tokens = tokenize(["road", ""], tokenizer(vocabulary), context=5)
    np.testing.assert_array_equal(tokens, [[START, 514, END, 0, 0], [START, END, 0, 0, 0]])
    assert tokens.dtype == np.int64
    with pytest.raises(ValueError, match="'road road road road': got 4 tokens, expected at most 3"):
        tokenize(["road", "road road road road"], tokenizer(vocabulary), context=5)


def test_files_that_are_not_the_vocabulary(tmp_path: Path, vocabulary: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected CLIP's vocabulary"):
        read_merges(tmp_path / "none.gz")
    short = tmp_path / "short.txt"
    short.write_text("heading\na b\nc\n")
    with pytest.raises(ValueError, match=f"got 1 merges of two parts, expected the {MERGES}"):
        read_merges(short)
    cut = tmp_path / "cut.gz"
    cut.write_bytes(vocabulary.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        read_merges(cut)


def test_no_vocabulary_says_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[labels\]'.*--vocabulary"):
        tokenizer()
