"""Turns answers about names into the offsets of data/ner/labels.tsv, and back.

    python tools/choose_ner_sentences.py > sentences.tsv
    python tools/ner_answers.py show > answers.txt           the labels as they are: edit these
    python tools/ner_answers.py write sentences.tsv answers.txt

An answer is one line: the sentence's name, a tab, and its names in order of appearance as `surface|TYPE`, with " ; "
between them; `!` in front marks a sentence with an ambiguous name. A line without names says that there are none:

    train-007	!Rocky|PER ; Warner Bros|ORG
    train-008

`Rocky#2|WORK` is the second Rocky of its sentence. A surface that is absent, or that stands there more often than the
answer says, is an error: nothing is guessed. After `write`, put the new SHA-256 of labels.tsv into data/SHA256SUMS.
Lines of `show` end with the sentence itself behind another tab; `write` passes over it.
"""

import re
import sys
from pathlib import Path

from aigc_course.data import movie_reviews
from aigc_course.ner import NER_TYPES, PARTS, sentences
from aigc_course.paths import DATA

LABELS = DATA / "ner" / "labels.tsv"
ANSWER = re.compile(r"(.+?)(?:#(\d+))?\|([A-Z]+)")
HEADER = """\
# Names in 1,200 sentences of movie reviews. The rules: docs/ner_guidelines.md. In Python: aigc_course.ner.
# sentence  id  part  row  start  end  "ambiguous" or "-"   (row of movie_reviews("imdb"), counted from 0)
# name      id  start  end  type                            (start, end: characters of that row's text)
"""


def read_answers(path):
    """{sentence's name: (marked, [(surface, which one or None, type)])}"""
    answers = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        name, answer = (line.split("\t") + [""])[:2]
        found = [ANSWER.fullmatch(item.strip()) for item in answer.lstrip("!").split(" ; ") if item.strip()]
        if name in answers or any(item is None or item[3] not in NER_TYPES for item in found):
            raise SystemExit(f"{path}: {line!r} is no answer, or the second one for this sentence")
        answers[name] = answer.startswith("!"), [(item[1], item[2] and int(item[2]), item[3]) for item in found]
    return answers


def locate(sentence, names):
    """[(start, end, type)] in a sentence for [(surface, which one or None, type)] in order of appearance."""
    spans, after = [], 0
    for surface, number, kind in names:
        places = [found.span() for found in occurrences(surface, sentence)]
        places = places[number - 1 : number] if number else [place for place in places if place[0] >= after]
        if not places or places[0][0] < after:
            raise ValueError(f"{surface!r} is not there, or not in this order")
        spans.append((*places[0], kind))
        after = places[0][1]
    for surface, number, _ in names:
        free = [
            found.span()
            for found in occurrences(surface, sentence)
            if not any(a < found.end() and found.start() < b and (a, b) != found.span() for a, b, _ in spans)
        ]
        if number is None and len(free) != sum(other == surface for other, _, _ in names):
            raise ValueError(f"{surface!r} occurs {len(free)} times: say which one is meant")
    return spans


def occurrences(surface, sentence):
    """The matches of a surface as whole words."""
    return re.finditer(rf"(?<!\w){re.escape(surface)}(?!\w)", sentence)


def write(chosen, answers):
    """Writes labels.tsv from the chosen sentences and the answers, which must fit each other exactly."""
    reviews = [text for text, _ in movie_reviews("imdb")]
    answers = read_answers(answers)
    lines, faults = [], []
    for line in Path(chosen).read_text(encoding="utf-8").splitlines():
        name, part, row, start, end = line.split("\t")
        marked, names = answers.pop(name, (None, None))
        if names is None:
            faults.append(f"{name}: no answer")
            continue
        lines.append(["sentence", name, part, row, start, end, "ambiguous" if marked else "-"])
        try:
            spans = locate(reviews[int(row)][int(start) : int(end)], names)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            continue
        lines.extend(["name", name, int(start) + a, int(start) + b, kind] for a, b, kind in spans)
    faults += [f"{name}: no such sentence" for name in answers]
    if faults:
        raise SystemExit("\n".join(faults))
    LABELS.parent.mkdir(exist_ok=True)
    content = HEADER + "".join("\t".join(map(str, line)) + "\n" for line in lines)
    LABELS.write_text(content, encoding="utf-8", newline="\n")


def as_answer(sentence, names, marked):
    """The answer that `read_answers` and `locate` turn back into these names, [(start, end, type)]."""
    surfaces = [(sentence[a:b], a, kind) for a, b, kind in names]
    answer = " ; ".join(f"{surface}|{kind}" for surface, _, kind in surfaces)
    try:
        if locate(sentence, [(surface, None, kind) for surface, _, kind in surfaces]) != list(names):
            raise ValueError
    except ValueError:
        numbers = [1 + sum(f.start() < a for f in occurrences(surface, sentence)) for surface, a, _ in surfaces]
        answer = " ; ".join(f"{surface}#{n}|{kind}" for (surface, _, kind), n in zip(surfaces, numbers))
    return ("!" if marked else "") + answer


def show():
    """Prints the labels as they are, each sentence behind its answer."""
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    for sentence in (sentence for part in PARTS for sentence in sentences(part)):
        print(sentence.id, as_answer(sentence.text, sentence.names, sentence.ambiguous), sentence.text, sep="\t")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", chosen, answers]:
            write(chosen, answers)
        case ["show"]:
            show()
        case _:
            raise SystemExit(__doc__)
