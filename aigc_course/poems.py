"""Tang poems, and what judges a poem: its form, its rhymes, and whether its lines were there before."""

import functools
import lzma
import random
import re
from collections import Counter

from aigc_course.data import published_sum, shipped
from aigc_course.files import verify
from aigc_course.models.gpt import GPT, GPTConfig
from aigc_course.paths import DATA

FORMS = {(4, 5): "5-character quatrain", (4, 7): "7-character quatrain", (8, 5): "5-character regulated verse",
         (8, 7): "7-character regulated verse"}  # fmt: skip
CHARACTER = "[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f]"
VERSE = re.compile(f"(?:{CHARACTER}+，{CHARACTER}+。)+")
POEM_GPT = DATA / "models" / "poem_gpt"
HELD_OUT = 20  # every twentieth poem is for validation


def tang_poems(split="all"):
    """Regular verse of the Complete Tang Poems in simplified characters, in the collection's order.

    split: "all", "validation" (every twentieth poem) or "train" (the others).
    Returns a list of poems such as "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。": four or eight lines of five or
    seven characters, each line closed by a comma or a full stop by turns; no spaces, no line breaks.
    Raises DamagedFile when the file under `data/` is cut or altered.
    """
    return [poem for _, _, poem in part(split)]


def tang_poem_credits(split="all"):
    """(author, title) of each poem of `tang_poems(split)`, in the same order."""
    return [(author, title) for author, title, _ in part(split)]


def part(split):
    """(author, title, poem) of the poems of `split`."""
    rows = read_table("tang_poems/tang_poems.txt.xz")
    chosen = {"all": lambda i: True, "train": lambda i: i % HELD_OUT != 0, "validation": lambda i: i % HELD_OUT == 0}
    if split not in chosen:
        raise ValueError(f"split must be one of {tuple(chosen)}, not {split!r}")
    return [row for i, row in enumerate(rows) if chosen[split](i)]


@functools.cache
def read_table(name):
    """The rows of `data/NAME` as tuples of texts, after its SHA-256 was checked."""
    path = DATA / name
    verify(path, published_sum(name), f"In the course's folder run `git checkout -- data/{name}`.")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [tuple(row.rstrip("\n").split("\t")) for row in file]


class Characters:
    """Numbers for characters, and one for what begins and ends every poem: `BOUNDARY` is token 0.

    characters: a text that holds each known character once; the first becomes token 1.
    """

    BOUNDARY = 0

    def __init__(self, characters):
        self.characters = characters
        self.numbers = {character: i for i, character in enumerate(characters, start=1)}

    def __len__(self):
        return len(self.characters) + 1

    def knows(self, text):
        """True if every character of `text` has a number."""
        return self.numbers.keys() >= set(text)

    def encode(self, text):
        """Token numbers of a text, without boundaries. Raises ValueError that names characters it does not know."""
        if not self.knows(text):
            raise ValueError(f"not in the vocabulary: {''.join(sorted(set(text) - self.numbers.keys()))}")
        return [self.numbers[character] for character in text]

    def decode(self, tokens):
        """The text of token numbers, up to the first boundary; a boundary at the very beginning is passed over."""
        tokens = list(map(int, tokens))
        tokens = tokens[1:] if tokens[:1] == [self.BOUNDARY] else tokens
        if self.BOUNDARY in tokens:
            tokens = tokens[: tokens.index(self.BOUNDARY)]
        return "".join(self.characters[token - 1] for token in tokens)


def poem_gpt():
    """The poem model that comes with the course: (GPT in evaluation mode, its Characters), on the CPU, float32.

    Made by `python -m aigc_course.recipes.poems`; see data/models/poem_gpt/README.md. Raises DamagedFile when one of
    its files is cut or altered.
    """
    config, weights = shipped("poem_gpt")
    model = GPT(GPTConfig(**config["model"]))
    weights["head.weight"] = weights["token_embedding.weight"]  # one table, kept once
    model.load_state_dict(weights)
    return model.eval(), Characters(config["characters"])


def lines(poem):
    """The lines of a poem without their punctuation: "春眠不觉晓，处处闻啼鸟。" gives ["春眠不觉晓", "处处闻啼鸟"]."""
    return re.findall("[^，。]+", poem)


def form(poem):
    """(lines, characters a line) of a poem in exact regular form, or None.

    Exact: one of `FORMS`, all lines of one length, commas and full stops by turns, nothing else, no character missing.
    """
    if not VERSE.fullmatch(poem):
        return None
    lengths = [len(line) for line in lines(poem)]
    found = (len(lengths), lengths[0])
    return found if found in FORMS and len(set(lengths)) == 1 else None


def form_shares(poems):
    """{form: share of the poems}, None for those in no regular form."""
    counts = Counter(map(form, poems))
    return {key: counts[key] / len(poems) for key in [*FORMS, None]}


@functools.cache
def rhymes():
    """{character: names of its rhymes} of the Pingshui table: 106 rhymes, by which Tang poets' verse is read.

    The table was printed in the 13th century for the sounds of the 7th; today's pronunciation no longer shows many of
    these rhymes. A character with several readings has several rhymes.
    """
    table = {}
    for name, characters in read_table("tang_poems/pingshui.txt.xz"):
        for character in characters:
            table.setdefault(character, set()).add(name)
    return table


def rhyme(a, b):
    """True if two characters have a rhyme of the Pingshui table in common and are not the same character."""
    return a != b and not rhymes().get(a, set()).isdisjoint(rhymes().get(b, ()))


def rhyme_rate(poems):
    """The share of neighbouring couplets whose last characters rhyme.

    Regular verse rhymes at the end of every even line, so an eight-line poem has three such pairs of neighbours and a
    quatrain one. Takes poems in regular form only.
    """
    ends = [[line[-1] for line in lines(poem)[1::2]] for poem in poems]
    pairs = [rhyme(a, b) for last in ends for a, b in zip(last, last[1:])]
    return sum(pairs) / len(pairs)


def shuffle_lines(poems, seed=0):
    """The same poems with each line exchanged for one of any poem of that form, at the same place in its poem.

    What `rhyme_rate` gives for these is what chance gives: lines stay real, forms stay exact, poems are no more.
    """
    order = random.Random(seed)
    pools = {}
    for poem in poems:
        for place, line in enumerate(lines(poem)):
            pools.setdefault((form(poem), place), []).append(line)
    for pool in pools.values():
        order.shuffle(pool)
    return ["".join(pools[form(poem), i].pop() + "，。"[i % 2] for i in range(len(lines(poem)))) for poem in poems]


def share_of_known_lines(poems, known):
    """The share of the poems' lines that stand word for word in the poems `known`."""
    there = {line for poem in known for line in lines(poem)}
    found = [line in there for poem in poems for line in lines(poem)]
    return sum(found) / len(found)
