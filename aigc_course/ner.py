"""Names in sentences of movie reviews: persons, organisations, places and works, for lesson 17."""

import functools
from typing import NamedTuple

from aigc_course.data import movie_reviews, published_sum
from aigc_course.files import verify
from aigc_course.paths import DATA

NER_TYPES = ("PER", "ORG", "LOC", "WORK")
PARTS = ("train", "validation", "test")
LABELS = "ner/labels.tsv"


class Sentence(NamedTuple):
    """A sentence of the corpus. `row` counts the reviews of `movie_reviews("imdb")` from 0, `start` is where the
    sentence begins in that review's text; each of `names` is (start, end, type), counted within the sentence."""

    id: str
    row: int
    start: int
    text: str
    names: tuple
    ambiguous: bool


def ner_sentences(part):
    """Sentences with their names, labelled under docs/ner_guidelines.md.

    part: "train" (600 sentences), "validation" (300) or "test" (300); no review is in two parts.
    Returns a list of (text, names), in the order of the reviews: names is a list of (start, end, type) by position,
    `text[start:end]` the name and type one of `NER_TYPES`. Names do not overlap; a sentence may have none.
    Raises DamagedFile when the file of labels or the package's file of reviews is missing or altered.
    """
    return [(sentence.text, list(sentence.names)) for sentence in sentences(part)]


def ner_ambiguous(part):
    """For each of `ner_sentences(part)`: True if a name in it could as well be something else, say a film."""
    return [sentence.ambiguous for sentence in sentences(part)]


def sentences(part):
    """The `Sentence`s of a part: `ner_sentences` with where each stands."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, not {part!r}")
    return read_corpus()[part]


@functools.cache
def read_corpus():
    """{part: its `Sentence`s}: the labels, after their SHA-256 was checked, with the text of the reviews."""
    path = DATA / LABELS
    verify(path, published_sum(LABELS), f"Fetch it again: `git checkout -- data/{LABELS}`.")
    reviews, found, names_of = [text for text, _ in movie_reviews("imdb")], {part: [] for part in PARTS}, {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match line.split("\t"):
            case ["sentence", name, part, *numbers, mark]:
                found[part].append((name, *map(int, numbers), mark == "ambiguous"))
                names_of[name] = []
            case ["name", name, start, end, kind]:
                names_of[name].append((int(start), int(end), kind))
    return {
        part: [
            Sentence(
                id=name,
                row=row,
                start=start,
                text=reviews[row][start:end],
                names=tuple((a - start, b - start, kind) for a, b, kind in names_of[name]),
                ambiguous=ambiguous,
            )
            for name, row, start, end, ambiguous in rows
        ]
        for part, rows in found.items()
    }
