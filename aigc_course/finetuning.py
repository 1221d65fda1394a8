"""Snippets, batches and the training of lessons 14 and 15: a pretrained GPT-2 goes on with another kind of text."""

import hashlib
import math
import re
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from aigc_course.data import Batches, movie_reviews, shuffled_parts
from aigc_course.training import train

SNIPPETS = {"train": 4000, "validation": 500, "test": 500}  # how many of each
FEWEST_LETTERS = 40  # "a pretentious mess" is what anybody might write, and some reviewers have
DASHES = {i: bytes([i]).decode("cp1252", "replace") for i in range(128, 160)}  # Windows-1252 that was read as Latin-1
IGNORED = -100  # the label of a place that is not in the loss


def only_letters(text):
    """The letters a to z of a text in lower case: what two texts are compared by."""
    return re.sub("[^a-z]", "", text.lower())


@cache
def snippets():
    """5,000 critics' snippets as {"train": [...], "validation": [...], "test": [...]}, lists of texts.

    No two have the same letters, and each has at least FEWEST_LETTERS. The order and the parts are always the same.
    """
    distinct = {}
    for text, _ in movie_reviews("rotten_tomatoes"):
        distinct.setdefault(only_letters(text), text.translate(DASHES).strip())
    texts = [text for found, text in distinct.items() if len(found) >= FEWEST_LETTERS]
    return shuffled_parts(texts, SNIPPETS, seed=14)


def encode_snippets(texts, tokenizer):
    """A list of int64 tensors `(T,)`, one a text: the end token, the text's tokens, the end token."""
    end = tokenizer.eos_token_id
    return [torch.tensor([end, *ids, end]) for ids in tokenizer(texts, add_special_tokens=False).input_ids]


def pad(rows):
    """Token rows of any lengths as a batch: input_ids, attention_mask and labels, int64 `(B, T)` each.

    labels are the input_ids, which GPT-2 shifts by itself; -100 where there is nothing to predict: at the first place
    and on padding.
    """
    input_ids = pad_sequence(rows, batch_first=True)
    attention_mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    labels = input_ids.masked_fill(attention_mask == 0, IGNORED)
    labels[:, 0] = IGNORED
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def pack(rows, tokens=192):
    """The same rows with hardly any padding, several behind one another in a line of about so many tokens.

    Every row counts its positions from 0, and the mask `(B, 1, T, T)`, True where a token may look, hides the other
    rows from it: the loss and the gradients are those of `pad(rows)`.
    """
    lines = [[] for _ in range(math.ceil(sum(map(len, rows)) / tokens))]
    for row in sorted(rows, key=len, reverse=True):  # the longest first, each into the shortest line so far
        min(lines, key=lambda line: sum(map(len, line))).append(row)
    lines = [line for line in lines if line]
    join = lambda tensors, fill: pad_sequence([torch.cat(t) for t in tensors], batch_first=True, padding_value=fill)
    owner = join([[torch.full((len(row),), i) for i, row in enumerate(line)] for line in lines], -1)  # (B, T)
    return {
        "input_ids": join(lines, 0),
        "position_ids": join([[torch.arange(len(row)) for row in line] for line in lines], 0),
        "attention_mask": (owner[:, :, None] == owner[:, None, :]).tril()[:, None],
        "labels": join([[F.pad(row[1:], (1, 0), value=IGNORED) for row in line] for line in lines], IGNORED),
    }


@torch.no_grad()
def nats_per_token(model, rows, batch_size=32):
    """All nats that a model in evaluation mode pays for `rows`, over all their tokens; end tokens count, starts do not.

    batch_size changes nothing but the time.
    """
    rows, device, nats, tokens = sorted(rows, key=len), next(model.parameters()).device, 0.0, 0
    for i in range(0, len(rows), batch_size):
        batch = {name: value.to(device) for name, value in pad(rows[i : i + batch_size]).items()}
        count = (batch["labels"] != IGNORED).sum().item()
        nats += model(**batch).loss.item() * count
        tokens += count
    return nats / tokens


def perplexity(model, rows):
    """e to the nats per token."""
    return math.exp(nats_per_token(model, rows))


def set_dropout(model, p):
    """Makes every dropout of a transformers model drop the share p."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


def warmup_to_zero(fraction, warmup=0.1):
    """Factor on the learning rate: linear up to 1 during `warmup`, then linear down to 0."""
    return min((fraction + 1e-3) / warmup, (1 - fraction) / (1 - warmup), 1.0)


class Numbered(Batches):
    """Batches that remember the step of the last one that was asked for."""

    def __getitem__(self, step):
        self.step = step
        return super().__getitem__(step)


def fine_tune(
    model, training, validation, *, epochs, rate, weight_decay=0.0, batch_size=16, seed=0, evaluations=4, patience=4,
    collate=pack, writer=None, **options,
):  # fmt: skip
    """Trains the parameters of `model` that want a gradient on `training`, lists of token rows; returns the History.

    AdamW, up in a tenth of the steps and down to nothing in the rest; `evaluations` times an epoch nats_per_token of
    `validation`, and the weights of the best are put back. After `patience` of them without a better one it stops.
    collate: `pack`, or `pad` for a model that takes masks `(B, T)` only, as with a prefix. writer: a SummaryWriter that
    gets the losses as they come. options: for `train`, such as `checkpoint`.
    """
    batches = Numbered(
        torch.arange(len(training)), batch_size=batch_size, seed=seed,
        prepare=lambda chosen: collate([training[i] for i in chosen]),
    )  # fmt: skip

    def step(batch):
        loss = model(**batch).loss
        if writer:
            writer.add_scalar("loss/training", loss.item(), batches.step)
        return loss

    def evaluate():
        nats = nats_per_token(model, validation)
        if writer:
            writer.add_scalar("loss/validation", nats, batches.step + 1)
            writer.flush()
        return nats

    learned = [p for p in model.parameters() if p.requires_grad]
    return train(
        step, model, batches, optimizer=torch.optim.AdamW(learned, lr=rate, weight_decay=weight_decay, fused=True),
        steps=round(epochs * batches.per_epoch), schedule=warmup_to_zero, clip_norm=1.0, evaluate=evaluate,
        evaluate_every=max(1, batches.per_epoch // evaluations), patience=patience,
        config={"training": fingerprint(training), "validation": fingerprint(validation)}, **options,
    )  # fmt: skip


def fingerprint(rows):
    """A short text that stands for token rows: another one means other data."""
    return hashlib.sha256(torch.cat(rows).cpu().numpy().tobytes()).hexdigest()[:16]


encode, warmup_linear = encode_snippets, warmup_to_zero  # names of an earlier draft: use the new ones
