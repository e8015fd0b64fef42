"""Real text without a download: the help topics of the standard library's ``pydoc``, split once by position."""

import hashlib
import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from export.held_out import Array, HeldOut, mean_nll

# Fixed, because a trained model's rows are these characters in this order. Other versions of Python have other topics;
# a character that is not here is read as a space.
ALPHABET = (
    "\n !\"#%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_"
    "abcdefghijklmnopqrstuvwxyz{|}~°ß–—‘’“”…"  # as they stand in the text
)
WINDOW = 128  # characters predicted from a fresh state


@dataclass(frozen=True)
class Topics:
    """Characters as positions in ALPHABET: the first nine tenths, and the held-out last tenth."""

    train_ids: Array
    test_ids: Array
    sha256: str


@cache
def topics() -> Topics:
    """The text of this Python's topics, in the order of their names."""
    from pydoc_data.topics import topics as texts  # half a megabyte that only the language models need

    text = "\n".join(texts[name] for name in sorted(texts))
    ids = encode(text)
    cut = len(ids) * 9 // 10
    return Topics(ids[:cut], ids[cut:], hashlib.sha256(text.encode()).hexdigest())


def encode(text: str) -> Array:
    """Characters -> int64 (T,)."""
    position = {character: index for index, character in enumerate(ALPHABET)}
    return np.array([position.get(character, position[" "]) for character in text], "i8")


def bits_per_character(logits: Array, targets: Array) -> float:
    """Mean negative log likelihood of the next character in bits. (N, T, V), (N, T)."""
    return mean_nll(logits, targets) / math.log(2)


def held_out_topics() -> HeldOut:
    """The last tenth in windows: ``ids`` (N, 128), whose next characters are to be predicted."""
    data = topics()
    count = (len(data.test_ids) - 1) // WINDOW
    ids = data.test_ids[: count * WINDOW].reshape(count, WINDOW)
    following = data.test_ids[1 : count * WINDOW + 1].reshape(count, WINDOW)
    return HeldOut(
        dataset="pydoc_data.topics",
        sha256=data.sha256,
        split=f"the last tenth, in {count} windows of {WINDOW} characters, each from a fresh state",
        inputs={"ids": ids},
        metrics=lambda outputs: {"bits_per_character": bits_per_character(outputs["logits"], following)},
    )
