"""Chooses the sentences of the named-entity corpus, the same ones each time, and names them by offsets.

    python tools/choose_ner_sentences.py > sentences.tsv

Prints one sentence a line: id, part, row, start, end, with tabs between them. `row` counts the reviews of
`aigc_course.data.movie_reviews("imdb")` from 0; `start` and `end` are character offsets into that review as it stands
there, line-break tags and all. The labels of these sentences, in data/ner/labels.tsv, were not made by this script.

Reviews of one film stand next to each other in the file. So the reviews are cut into blocks of 20 rows, and each block
gives one sentence at most: no film is met more than twice or so. Five blocks that follow each other go to the same
part, so most films are in one part only. What a block gives is drawn beforehand, in these shares:

- 4 %: a sentence without capitalised words, but for its first;
- 44 %: one with a capitalised word that is also a common word in small letters ("Heat") or is on a short list of
  names that several things bear ("Rocky", "Casablanca"): there the meaning must decide;
- 52 %: one with any capitalised word that is no mere adjective, language or day.
"""

import random
import re
import sys
from collections import Counter

from aigc_course.data import movie_reviews

PARTS = {"train": 600, "validation": 300, "test": 300}
SHARES = {"none": 0.04, "ambiguous": 0.44, "names": 0.52}
BLOCK, BLOCKS_TOGETHER, SEED = 20, 5, 17
SHORTEST, LONGEST = 40, 220  # characters
COMMON = 100  # a word is common if the reviews have it so often in small letters

BREAK = re.compile(r"(?:<br\s*/?>)+")
END = re.compile(r"[.!?]+[\"')]*(?=\s+[\"'(]*[A-Z0-9])|$")
ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Lt|Capt|Sgt|Col|Gen|Prof|No|Vol|vs|etc|Rev|Ft|Mt|Sen|Gov|Pt|ie|eg|i\.e|e\.g)"
    r"|\b[A-Z])\.$"
)
SENTENCE = re.compile(r"[\"'(]*[A-Z0-9].*[.!?][\"')]*")
INSIDE = re.compile(r"(?<=[\w,;'’\-] )[\"'(]*([A-Z][A-Za-zÀ-ÿ'’\-]*)")  # not after a stop or a colon

NO_NAME = set(
    """
    I I'm I'd I've I'll Im Ive OK Ok DVD DVDs VHS TV CGI CG PG UK US USA IMDB IMDb IMO IMHO POV FX WWII WW2 SF R B A
    American Americans British English French German Germans Italian Japanese Chinese Russian Spanish Irish Scottish
    Mexican Canadian Australian Indian Indians European Asian African Korean Swedish Danish Jewish Jews Catholic
    Christian Christians Muslim Nazi Nazis Western Victorian Shakespearean Gothic God Oscar Oscars Hollywood Christmas
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April June July August September
    October November December Mr Mrs Dr Mr. Mrs. Dr. Internet DJ FBI CIA Sci-Fi Sci-fi Film Movie The
    """.split()
)
SEVERAL_BEAR_IT = set(
    """
    Rocky Frida Fargo Casablanca Warner Washington Carrie Rebecca Laura Batman Superman Dracula Frankenstein Tarzan
    Hamlet Macbeth Othello Emma Gandhi Nixon Ray Capote Alexander Troy Chicago Philadelphia Munich Titanic
    Alien Aliens Heat Jaws Halloween Scarface Spartacus Cleopatra Amadeus Annie Arthur Gigi Marty Patton Shaft Shane
    Tootsie Vertigo Psycho Manhattan Nashville Paris Brazil Dallas Vegas Oklahoma Columbo Monk House Bones Hulk
    Godzilla Kong Zorro Popeye Bambi Dumbo Pinocchio Cinderella Aladdin Hercules Mulan Shrek Borat Rambo
    Columbia Paramount Universal Fox Disney Lifetime Hammer Ealing Orion Miramax Lincoln Jackson Houston London Madison
    Austin Dakota Savannah Phoenix Jordan Carolina Virginia Florence Georgia Chelsea Orlando Bond Potter Kane
    Elizabeth Evita Selena Beckett Becket Matilda Heidi Lolita Jane Eyre Oliver Ivanhoe Zodiac Gladiator Columbus
    """.split()
)
# Words that no teacher wants on the wall.
UNFIT = re.compile(r"(?i)\b(?:fuck|shit|slut|whore|rap(?:e|ed|es|ing|ist)\b|porn|retard|nigg|fag|orgasm|penis|nud[ei])")
AFTERWARDS = re.compile(r"\*\*|darkies")  # what it missed, found on reading; the other sentences stay what they were


def pieces(text):
    """(start, end) of the sentences of a review that end with a stop and stand outside tags."""
    edges = [0] + [edge for found in BREAK.finditer(text) for edge in found.span()] + [len(text)]
    for left, right in zip(edges[::2], edges[1::2]):
        start = left
        for found in END.finditer(text[left:right]):
            end = left + found.end()
            if ABBREVIATION.search(text[start:end]):
                continue
            yield start + len(text[start:end]) - len(text[start:end].lstrip()), end
            start = end


def fits(sentence):
    """True for a whole sentence of plain characters and the right length that is not shouted."""
    letters = [c for c in sentence if c.isalpha()]
    return (
        SHORTEST <= len(sentence) <= LONGEST
        and SENTENCE.fullmatch(sentence) is not None
        and not re.search(r"[<>&\t\r\n\x80-\x9f]|  |\.\w+\.com|http", sentence)
        and not UNFIT.search(sentence)
        and sentence.count('"') % 2 == 0
        and sentence.count("(") == sentence.count(")")
        and sum(c.isupper() for c in letters) < 0.3 * len(letters)
    )


def kind(sentence, common):
    """Which of `SHARES` a sentence belongs to; None for capitals that say nothing."""
    capitals = [re.sub(r"['’]s$|['’\-]+$", "", word) for word in INSIDE.findall(sentence)]
    names = [word for word in capitals if word not in NO_NAME and not (word.isupper() and len(word) > 4)]
    if not capitals or set(capitals) <= {"I", "I'm", "I'd", "I've", "I'll"}:
        return "none"
    if any(word in SEVERAL_BEAR_IT or (not word.isupper() and word.lower() in common) for word in names):
        return "ambiguous"
    return "names" if names else None


def choose(reviews):
    """[(part, row, start, end)] for the texts of the reviews, in the file's order."""
    order = random.Random(SEED)
    times = Counter(reviews)
    words = Counter(word for text in times for word in re.findall(r"(?<![\w'])[a-z]+(?!\w)", text))
    common = {word for word, count in words.items() if count >= COMMON}
    together = BLOCK * BLOCKS_TOGETHER
    groups = list(range(0, len(reviews), together))
    order.shuffle(groups)
    found, seen, wanted = [], set(), dict(PARTS)
    for group in groups:
        part = max(wanted, key=lambda name: wanted[name] / PARTS[name])
        for block in range(group, min(group + together, len(reviews)), BLOCK):
            rows = [row for row in range(block, min(block + BLOCK, len(reviews))) if times[reviews[row]] == 1]
            sentences = [(row, *span) for row in rows for span in pieces(reviews[row])]
            sentences = [(row, a, b) for row, a, b in sentences if fits(reviews[row][a:b])]
            order.shuffle(sentences)
            sought = order.choices(list(SHARES), list(SHARES.values()))[0]
            for row, a, b in sentences:
                text = reviews[row][a:b]
                if wanted[part] and text not in seen and not AFTERWARDS.search(text) and kind(text, common) == sought:
                    found.append((part, row, a, b))
                    seen.add(text)
                    wanted[part] -= 1
                    break
    if any(wanted.values()):
        raise SystemExit(f"too few sentences: {wanted} are missing")
    return sorted(found, key=lambda item: (list(PARTS).index(item[0]), item[1]))


def main():
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    number = Counter()
    for part, row, start, end in choose([text for text, _ in movie_reviews("imdb")]):
        number[part] += 1
        print(f"{part}-{number[part]:03d}", part, row, start, end, sep="\t")


if __name__ == "__main__":
    main()
