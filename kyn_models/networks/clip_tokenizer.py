"""Text to the token numbers that CLIP was trained with (Radford et al. 2021): byte pair encoding. No torch.

The vocabulary is a list of merges, ``bpe_simple_vocab_16e6.txt.gz`` of OpenAI's CLIP. It comes inside the package
``instant-clip-tokenizer``, which then does the work as well, or from the user's own copy of the file.
"""

from __future__ import annotations

import gzip
import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

CONTEXT = 77
"""Tokens of a text that the published model takes, start and end included."""
START = 49406
END = 49407
MERGES = 48894
"""Merges of the file that count: 512 tokens of single bytes before them, start and end behind them."""
VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
HOW = (
    "pip install '.[labels]' in kyn's source folder, or name a copy of CLIP's "
    f"{VOCABULARY_FILE} as --vocabulary (it is in the repository openai/CLIP and in the wheel of open_clip_torch)"
)

Encoder = Callable[[str], list[int]]
"""A text to its tokens, without start and end."""

_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
_WORD = re.compile(r"L+|N|O+")


def tokenizer(vocabulary: str | Path | None = None) -> Encoder:
    """CLIP's tokenizer, from the user's vocabulary file or else from the package ``instant-clip-tokenizer``.

    As published, but for the repair of wrongly decoded text (ftfy), which is left out. Raises ``ImportError`` if there
    is neither, ``FileNotFoundError`` or ``ValueError`` for a file that is not CLIP's vocabulary.
    """
    if vocabulary is not None:
        return BytePairs(read_merges(Path(vocabulary)))
    try:
        from instant_clip_tokenizer import Tokenizer
    except ImportError as error:
        raise ImportError(f"label words need CLIP's vocabulary, which is not here; {HOW}") from error
    encode = Tokenizer().encode
    return lambda text: list(encode(clean(text)))


def tokenize(texts: Sequence[str], encode: Encoder, context: int = CONTEXT) -> np.ndarray:
    """(N, context) int64: start, tokens, end, then zeros. Raises ``ValueError`` naming a text that is too long."""
    tokens = np.zeros((len(texts), context), dtype=np.int64)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [START, *encode(text), END]
        if len(numbers) > context:
            raise ValueError(
                f"label {text!r}: got {len(numbers) - 2} tokens, expected at most {context - 2}; shorten it"
            )
        row[: len(numbers)] = numbers
    return tokens


def clean(text: str) -> str:
    """Lower case, HTML entities resolved, white space of any kind as one blank."""
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The merges of a vocabulary file, first learned first. Raises ``FileNotFoundError`` or ``ValueError``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected CLIP's vocabulary {VOCABULARY_FILE}")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}), expected CLIP's vocabulary {VOCABULARY_FILE}") from error
    merges = [tuple(line.split()) for line in text.split("\n")[1 : MERGES + 1]]  # the first line is a heading
    if len(merges) < MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"{path}: got {sum(len(merge) == 2 for merge in merges)} merges of two parts, expected the {MERGES} of "
            f"CLIP's vocabulary {VOCABULARY_FILE}"
        )
    return [(left, right) for left, right in merges]


class BytePairs:
    """Byte pair encoding: a word is its bytes, and again and again the pair whose merge was learned first is joined."""

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        """merges: as ``read_merges`` gives them."""
        self._letters = _letters_of_bytes()
        words = list(self._letters.values())
        words += [word + "</w>" for word in words] + ["".join(merge) for merge in merges]
        self._numbers = {word: number for number, word in enumerate(words)}
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}

    def __call__(self, text: str) -> list[int]:
        return [self._numbers[part] for word in split_words(clean(text)) for part in self._parts(word)]

    def _parts(self, word: str) -> list[str]:
        parts = [self._letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            first = min(zip(parts, parts[1:], strict=False), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if first not in self._ranks:
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == first:
                    # What was just joined is longer than the first part, so it never joins twice.
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = joined
        return parts


def split_words(text: str) -> list[str]:
    """Runs of letters, single digits, runs of other signs, and the endings of English contractions.

    >>> split_words("don't park 12 cars!")
    ['don', "'t", 'park', '1', '2', 'cars', '!']
    """
    kinds = "".join(map(_kind, text))
    words, place = [], 0
    while place < len(text):
        found = _CONTRACTION.match(text, place) or _WORD.match(kinds, place)
        if found:
            words.append(text[place : found.end()])
        place = found.end() if found else place + 1
    return words


def _kind(letter: str) -> str:
    """L for letters, N for numbers, blank for white space, O for all others."""
    kind = unicodedata.category(letter)[0]
    return " " if letter.isspace() else kind if kind in "LN" else "O"


def _letters_of_bytes() -> dict[int, str]:
    """Every byte as a visible letter, in the order in which the vocabulary numbers them.

    Printable ones of Latin-1 as themselves, then the others from code point 256 on.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{byte: chr(byte) for byte in visible}, **{byte: chr(256 + n) for n, byte in enumerate(hidden)}}
