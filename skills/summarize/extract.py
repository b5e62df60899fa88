"""Sentences and keywords of a text."""

import re
from collections import Counter
from math import sqrt
from typing import Any

KEYWORDS = 10
COMMON = frozenset(
    """a about after all also an and any are as at be because been but by can could did do does for from had
    has have he her his how i if in into is it its just like may more most no not of on one only or other
    our out over she so some such than that the their them then there these they this those to under up was
    we were what when where which while who will with would you your""".split()
)
# A sentence ends where a capital, a digit or a quote begins the next one, or a paragraph does.
END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+(?=[\"'(\[]?[A-ZÀ-Þ0-9])|\n\s*\n")
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def summarize(text: str, count: int) -> dict[str, Any]:
    """The `count` sentences that say most, in their order, and the words that they were chosen for."""
    sentences = [" ".join(one.split()) for one in END.split(text) if one and one.strip()]
    words = [[word.lower() for word in WORD.findall(sentence)] for sentence in sentences]
    weights = Counter(word for one in words for word in one if word not in COMMON and len(word) > 2)
    scores = [score(one, weights) for one in words]
    best = sorted(range(len(sentences)), key=lambda place: (-scores[place], place))[:count]
    return {
        "sentences": [sentences[place] for place in sorted(best)],
        "keywords": [word for word, _ in sorted(weights.items(), key=lambda one: (-one[1], one[0]))[:KEYWORDS]],
        "words": sum(map(len, words)),
    }


def score(words: list[str], weights: Counter[str]) -> float:
    """Long sentences hold more words, and are not better for it."""
    return sum(weights[word] - 1 for word in set(words) if word in weights) / sqrt(len(words) or 1)
