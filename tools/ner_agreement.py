"""How far two readers agree on the names of 100 sentences: 50 of validation and 50 of test, drawn by a seed.

    python tools/ner_agreement.py print > second.txt      number, tab, sentence: give this to the second reader
    python tools/ner_agreement.py score answers.txt       number, tab, `surface|TYPE ; surface|TYPE`, as ner_answers.py

Prints the entity-level F1 between the two readings (same start, end and type; neither is taken for the truth, so
precision and recall would only change places), also for each type and without types, and Cohen's kappa over tokens
(words and single marks, each with the type of the name it is in, or O; Cohen, 1960, A Coefficient of Agreement for
Nominal Scales), with kappa of the marks for ambiguous names.
"""

import random
import re
import sys
from collections import Counter

from ner_answers import locate, read_answers

from aigc_course.ner import NER_TYPES, sentences

SEED, EACH = 17, 50


def drawn():
    """{"1": Sentence, ...}: the sentences to be read twice."""
    chosen = []
    for part in ("validation", "test"):
        chosen += random.Random(SEED).sample(sentences(part), EACH)
    return {str(number): item for number, item in enumerate(chosen, start=1)}


def f1(first, second):
    """2 |A and B| / (|A| + |B|) of two sets."""
    return 2 * len(first & second) / max(1, len(first) + len(second))


def kappa(pairs):
    """Cohen's kappa of (first, second) labels: agreement beyond what the two readers' own frequencies would give."""
    observed = sum(a == b for a, b in pairs) / len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[label] * second[label] for label in first) / len(pairs) ** 2
    return (observed - chance) / (1 - chance) if chance < 1 else 1.0


def token_labels(sentence, names):
    """The type of the name that each token begins in, or "O"."""
    starts = [found.start() for found in re.finditer(r"\w+|[^\w\s]", sentence)]
    return [next((kind for a, b, kind in names if a <= start < b), "O") for start in starts]


def score(path):
    """Prints the agreement of the labels with the answers in the file `path`, and each sentence that differs."""
    answers, ours, theirs, tokens, marks = read_answers(path), set(), set(), [], []
    items = drawn()
    if answers.keys() != items.keys():
        raise SystemExit(f"answers are missing or too many: {sorted(answers.keys() ^ items.keys())}")
    for number, (_, _, _, sentence, names, marked) in items.items():
        also_marked, found = answers[number]
        try:
            second = locate(sentence, found)
        except ValueError as error:
            raise SystemExit(f"{path}, {number}: {error}") from None
        ours |= {(number, *name) for name in names}
        theirs |= {(number, *name) for name in second}
        tokens += zip(token_labels(sentence, names), token_labels(sentence, second))
        marks.append((marked, also_marked))
        if set(names) != set(second):
            only = [[f"{sentence[a:b]}|{kind}" for a, b, kind in x if (a, b, kind) not in y]
                    for x, y in ((names, second), (second, names))]  # fmt: skip
            print(f"{number}: first only {only[0]}, second only {only[1]}: {sentence}")
    print(f"names: {len(ours)} by the first reader, {len(theirs)} by the second")
    print(f"F1 {f1(ours, theirs):.3f}; without types {f1({x[:3] for x in ours}, {x[:3] for x in theirs}):.3f}")
    for kind in NER_TYPES:
        one, two = {x for x in ours if x[3] == kind}, {x for x in theirs if x[3] == kind}
        print(f"  {kind}: F1 {f1(one, two):.3f} ({len(one)} and {len(two)})")
    print(f"Cohen's kappa over {len(tokens)} tokens {kappa(tokens):.3f}; of the marks {kappa(marks):.3f}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    match sys.argv[1:]:
        case ["print"]:
            for number, sentence in drawn().items():
                print(number, sentence.text, sep="\t")
        case ["score", path]:
            score(path)
        case _:
            raise SystemExit(__doc__)
