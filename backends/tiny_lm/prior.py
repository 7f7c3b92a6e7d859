"""The base model's prior knowledge: bigram statistics of English text."""

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

_TEXT: Final = """\
The sea was calm in the morning, and the boats went out one after another. What is the name of the tall bird
that stands on the shore? It is a heron. She asked how long the road would be, and he said that it was not far.
Water boils at one hundred degrees, and ice melts at zero. There are seven days in a week and twelve months in
a year. Can you tell me where the library is? Yes, it is next to the school, behind the old bridge. A good
answer is short, clear and kind. When the wind comes from the north, the nights are cold. They planted beans,
peas and potatoes in the garden, then waited for the rain. Please write a line about the moon. The moon is a
lamp that someone forgot to put out. To make bread, mix flour, water, salt and yeast, and let the dough rest.
I do not know, but I can find out. Thank you very much for your help. Every model learns from what it reads,
and this one has read only a little. How many legs does a spider have? A spider has eight legs.
"""


def bigram_log_odds(vocab_size: int, *, end: int, assistant: int) -> NDArray[np.float32]:
    """Smoothed log counts of byte pairs, ``[previous, next]``, shifted so that an unseen pair is near zero.

    The end-of-turn token may follow a sentence, and a turn starts like a sentence.
    """
    counts = np.full((vocab_size, vocab_size), 0.02)
    counts[:, 128:] = 0.001
    text = _TEXT.replace("\n", " ").encode()
    for before, after in pairwise(text):
        counts[before, after] += 1.0
    for mark in b".?!":
        counts[mark, end] += 4.0
    for before, after in zip(text, text[2:], strict=False):
        if before in b".?!":
            counts[assistant, after] += 1.0
    odds = np.log(counts) - np.log(counts.sum(axis=1, keepdims=True))
    return np.asarray(odds - np.log(0.02 / vocab_size), dtype=np.float32)
