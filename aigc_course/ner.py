"""Names in sentences of movie reviews: persons, organisations, places and works; and how lesson 17 finds them."""

import functools
import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from aigc_course.data import movie_reviews, published_sum
from aigc_course.files import verify
from aigc_course.finetuning import warmup_linear
from aigc_course.paths import DATA
from aigc_course.training import train

NER_TYPES = ("PER", "ORG", "LOC", "WORK")
PARTS = ("train", "validation", "test")
LABELS = "ner/labels.tsv"
TAGS = ("O", *(f"{place}-{kind}" for kind in NER_TYPES for place in "BI"))  # 9: "O", "B-PER", "I-PER", "B-ORG", ...
IGNORED = -100  # the label of a place that is not in the loss


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


def sentences(part):
    """The `Sentence`s of a part: `ner_sentences` with where each stands."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, not {part!r}")
    return read_corpus()[part]


@functools.cache
def read_corpus():
    """{part: its `Sentence`s}: the labels, after their SHA-256 was checked, with the text of the reviews."""
    path = DATA / LABELS
    verify(path, published_sum(LABELS), f"In the course's folder run `git checkout -- data/{LABELS}`.")
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


# -- tags: a name as labels of words, and back


def words_and_tags(text, names):
    """The words and marks of a sentence with a tag each: "B-PER" begins a PER, "I-PER" goes on with it, "O" is none.

    names: (start, end, type) in characters, as `ner_sentences` gives them. Returns two lists of the same length.
    """
    words, tags = [], []
    for found in re.finditer(r"\w+|[^\w\s]", text):
        inside = [(start, kind) for start, end, kind in names if start <= found.start() < end]
        words.append(found[0])
        tags += [("B-" if start == found.start() else "I-") + kind for start, kind in inside] or ["O"]
    return words, tags


def spans(tags):
    """The names in a list of tags, as a set of (first word, word after the last, type).

    Strict: a name begins with "B-" and goes on with "I-" of its own type; any other "I-" names nothing.
    """
    found, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and tag != "I-" + tags[start][2:]:
            found.add((start, i, tags[start][2:]))
            start = None
        if tag.startswith("B-"):
            start = i
    return found


def name_counts(truth, said, keep=lambda i, start, end: True):
    """How many names are right, were said, and are there: int64 `(N, 4, 3)` for N sentences and each of NER_TYPES.

    truth, said: N lists of tags each. A name is right if its first word, its last word and its type are.
    keep(i, start, end): whether to count what stands there in sentence i.
    """
    counts = torch.zeros(len(truth), len(NER_TYPES), 3, dtype=torch.long)
    for i, (real, found) in enumerate(zip(map(spans, truth), map(spans, said))):
        for column, names in enumerate((real & found, found, real)):
            for start, end, kind in names:
                counts[i, NER_TYPES.index(kind), column] += keep(i, start, end)
    return counts


def precision_recall_f1(counts):
    """Precision, recall and F1, float64 `(..., 3)`, from counts `(..., 3)` of names that are right, said and there."""
    right, said, there = counts.double().unbind(-1)
    parts = right / said.clamp(min=1), right / there.clamp(min=1), 2 * right / (said + there).clamp(min=1)
    return torch.stack(parts, -1)


# -- two taggers without a network


def gazetteer(words, tags):
    """The names of some sentences, {("Meryl", "Streep"): "PER", ...}: each with the type that it bears most often.

    words, tags: a list for each sentence.
    """
    kinds = {}
    for sentence, labels in zip(words, tags):
        for start, end, kind in spans(labels):
            kinds.setdefault(tuple(sentence[start:end]), []).append(kind)
    return {name: max(NER_TYPES, key=found.count) for name, found in kinds.items()}


def tags_from_list(words, names):
    """Tags of a sentence: from left to right the longest run of words that is in the gazetteer `names`."""
    tags, i, longest = ["O"] * len(words), 0, max(map(len, names))
    while i < len(words):
        room = min(longest, len(words) - i)
        n = next((n for n in range(room, 0, -1) if tuple(words[i : i + n]) in names), 0)
        if n:
            kind = names[tuple(words[i : i + n])]
            tags[i : i + n] = ["B-" + kind] + ["I-" + kind] * (n - 1)
        i += max(1, n)
    return tags


def surfaces(words, tags):
    """The names of some sentences in small letters, {("meryl", "streep"), ...}: what counts as seen in training."""
    return {tuple(word.lower() for word in name) for name in gazetteer(words, tags)}


def word_shape(word):
    """ "McEntire's" -> "XxXx'x": capitals, small letters and digits by class, runs of a class as one."""
    classes = ("X" if c.isupper() else "x" if c.islower() else "0" if c.isdigit() else c for c in word)
    return re.sub(r"(.)\1+", r"\1", "".join(classes))


def word_features(words):
    """For each word of a sentence a dict of features: itself, its ends, and the words and shapes around it."""
    around, rows = ["<s>", "<s>", *words, "</s>", "</s>"], []
    for i, word in enumerate(words):
        row = {f"word {k:+}": around[i + 2 + k].lower() for k in range(-2, 3)}
        row |= {f"shape {k:+}": word_shape(around[i + 2 + k]) for k in (-1, 0, 1)}
        rows.append(row | {"begins": word[:3], "ends": word[-3:], "quoted": words[:i].count('"') % 2})
    return rows


# -- a tagger on an encoder


def align(words, tags, tokenizer):
    """(input_ids, labels) of a sentence, int64 `(T,)` each: a word's first piece bears its tag's number, all else -100.

    So do [CLS], [SEP] and the further pieces of a word: they are in no loss and get no tag.
    """
    encoded = tokenizer(words, is_split_into_words=True)
    labels, last = [], None
    for word in encoded.word_ids():
        labels.append(IGNORED if word is None or word == last else TAGS.index(tags[word]))
        last = word
    return torch.tensor(encoded["input_ids"]), torch.tensor(labels)


def collate_tagged(rows, pad=0):
    """Pairs (input_ids, labels) as a batch: input_ids, attention_mask and labels, int64 `(B, T)` each."""
    input_ids, labels = zip(*rows)
    input_ids = pad_sequence(input_ids, batch_first=True, padding_value=pad)
    labels = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    return {"input_ids": input_ids, "attention_mask": (input_ids != pad).long(), "labels": labels}


class LengthBatches:
    """batches[i] is the batch of step i: rows of about one length, so that there is little padding.

    rows: pairs as `align` gives them. The order depends on `seed` and epoch alone, and every row comes once an epoch.
    """

    def __init__(self, rows, *, batch_size, seed, pad=0):
        self.rows, self.batch_size, self.seed, self.pad = rows, batch_size, seed, pad
        self.lengths, self.per_epoch = torch.tensor([len(ids) for ids, _ in rows]), max(1, len(rows) // batch_size)

    def __getitem__(self, step):
        epoch, i = divmod(step, self.per_epoch)
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = (self.lengths * (1 + 0.3 * torch.rand(len(self.rows), generator=g))).argsort()  # other neighbours
        place = torch.randperm(self.per_epoch, generator=g)[i]
        return collate_tagged([self.rows[j] for j in order.tensor_split(self.per_epoch)[place]], self.pad)


class TokenClassifier(nn.Module):
    """An encoder with a linear layer on each of its last hidden states: the logits of the tags, `(B, T, len(TAGS))`."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(encoder.config.hidden_dropout_prob)
        self.head = nn.Linear(encoder.config.hidden_size, len(TAGS))

    def forward(self, input_ids, attention_mask):
        hidden = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state  # (B, T, d)
        return self.head(self.dropout(hidden))


def new_encoder(encoder):
    """An encoder of the same shape that has learned nothing."""
    return type(encoder)(encoder.config)


@torch.no_grad()
def predict_tags(model, rows, pad=0, batch_size=64):
    """The most probable tag of each word: a list for each of `rows`, which are pairs as `align` gives them."""
    device, said = next(model.parameters()).device, [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # neighbours of one length: little padding
    for i in range(0, len(order), batch_size):
        chosen = order[i : i + batch_size]
        batch = collate_tagged([rows[j] for j in chosen], pad)
        best = model(batch["input_ids"].to(device), batch["attention_mask"].to(device)).argmax(-1).cpu()  # (B, T)
        for j, line, labels in zip(chosen, best, batch["labels"]):
            said[j] = [TAGS[k] for k in line[labels != IGNORED].tolist()]
    return said


def train_tagger(model, training, validation, *, epochs, rate, seed, pad=0, batch_size=16, **options):
    """Fine-tunes a TokenClassifier on `training`, pairs as `align` gives them; returns the History.

    AdamW, up in a tenth of the steps and down to nothing in the rest. After each epoch the names of `validation` are
    scored, and the weights of the best F1 are put back; the History's evaluations are 1 - F1. options: for `train`,
    such as `checkpoint`.
    """
    batches = LengthBatches(training, batch_size=batch_size, seed=seed, pad=pad)
    truth = [[TAGS[k] for k in labels[labels != IGNORED].tolist()] for _, labels in validation]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)

    def step(batch):
        logits = model(batch["input_ids"], batch["attention_mask"])
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)

    def evaluate():
        counts = name_counts(truth, predict_tags(model, validation, pad))
        return 1 - precision_recall_f1(counts.sum((0, 1)))[2].item()

    return train(
        step, model, batches, optimizer=optimizer, steps=epochs * batches.per_epoch, schedule=warmup_linear,
        clip_norm=1.0, evaluate=evaluate, evaluate_every=batches.per_epoch, desc="names", **options,
    )  # fmt: skip
