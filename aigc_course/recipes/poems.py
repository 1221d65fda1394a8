"""The poem model of lessons 12 and 13: `python -m aigc_course.recipes.poems [--steps N] [--seed S]`.

Trains the modern GPT on the Tang poems, one poem a row: the boundary token, the poem, the boundary token. Scores it on
poems that it did not see and on 200 samples, and writes weights, configuration and a model card to
data/models/poem_gpt/. A run that was killed goes on from its last checkpoint.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save

from aigc_course.data import Batches
from aigc_course.decoding import generate
from aigc_course.files import write_atomically
from aigc_course.models.gpt import GPT, GPTConfig, count_parameters
from aigc_course.poems import (
    FORMS,
    POEM_GPT,
    Characters,
    form,
    form_shares,
    rhyme_rate,
    share_of_known_lines,
    shuffle_lines,
    tang_poems,
)
from aigc_course.recipes.pretraining import print_sums
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import train, warmup_cosine

MODERN = dict(norm="rms", positions="rotary", activation="relu2")
STEPS, BATCH_SIZE, LEARNING_RATE = 2400, 32, 3e-3
CONTEXT = 65  # the boundary and the longest poem: eight lines of seven characters and a mark
SEEN = 3  # a character that fewer training poems hold gets no number; poems that hold it are left out
IGNORED = -100  # the label that F.cross_entropy leaves out


def vocabulary_of(poems):
    """The characters that at least `SEEN` of the poems hold, the most frequent first."""
    counts = Counter(character for poem in poems for character in sorted(set(poem)))
    return Characters("".join(c for c, n in counts.most_common() if n >= SEEN))


def as_rows(poems, vocabulary):
    """`(N, CONTEXT + 1)`: boundary, poem, boundary, then IGNORED; poems with unknown characters are left out."""
    poems = [poem for poem in poems if vocabulary.knows(poem)]
    rows = torch.full((len(poems), CONTEXT + 1), IGNORED)
    for row, poem in zip(rows, poems):
        row[: len(poem) + 2] = torch.tensor([0, *vocabulary.encode(poem), 0])
    return rows


def poem_loss(model, rows, reduction="mean"):
    """Cross-entropy in nats of each token of `(B, CONTEXT + 1)` rows given those before it, without padding."""
    logits = model(rows[:, :-1].clamp(min=0))  # (B, CONTEXT, vocab_size); what padding gives is ignored
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=IGNORED, reduction=reduction)


@torch.no_grad()
def validation_loss(model, rows):
    """Mean loss in nats a token over all tokens of `rows`, the closing boundaries among them."""
    total = sum(poem_loss(model, part, "sum").item() for part in rows.split(128))
    return total / (rows[:, 1:] != IGNORED).sum().item()


def sample(model, vocabulary, count, generator):
    """`count` free samples at temperature 1 from the boundary token, each up to its next boundary."""
    start = [[Characters.BOUNDARY]] * count
    rows = generate(model, start, CONTEXT, end=Characters.BOUNDARY, generator=generator)
    return [vocabulary.decode(row) for row in rows]


def judge(poems, training):
    """What is said of a list of poems: its forms, and of those in regular form rhymes and lines known from training."""
    regular = [poem for poem in poems if form(poem)]
    figures = {"in regular form, share": len(regular) / len(poems)}
    for shape, share in form_shares(poems).items():
        figures[f"{FORMS.get(shape, 'no regular form')}, share"] = share
    if regular:
        figures["couplets that rhyme with the next, share"] = rhyme_rate(regular)
        figures["lines known from training, share"] = share_of_known_lines(regular, training)
    return figures


CARD = """# Poem GPT

A small GPT that writes Tang poems, one character at a time. Lessons 12 and 13 of the course use it. In Python:
`from aigc_course.poems import poem_gpt`.

- **Model:** `aigc_course.models.gpt`, the modern recipe: {config}. {parameters:,} parameters, kept as float16
  (`model.safetensors`); `config.json` holds the shape and the characters of the vocabulary.
- **Data:** {rows:,} of the {training:,} training poems of `aigc_course.poems.tang_poems("train")`, those that are made
  of the {characters:,} characters that at least {seen} of them hold; one poem a row, a boundary token before and
  behind it, padding not counted in the loss. Validation: {validation_rows:,} of the {validation:,} poems of
  `tang_poems("validation")`, by the same rule.
- **Training:** {steps:,} steps of {batch_size} poems, {tokens:,} tokens without padding; AdamW, learning rate {rate}
  with a warm-up and a cosine, seed {seed}, {minutes:.0f} minutes on {threads} threads.
- **Limits:** it knows the verse of the Tang dynasty and nothing else. Its lines are well formed, but they rhyme far
  less often than real ones do, and what they say together seldom holds.
- **Licence:** the course's; the poems are in the public domain.

| figure | value |
|---|---:|
{figures}

Samples are {samples} free samples at temperature 1 from the boundary token, seed {seed}. Real poems are those for
validation; shuffled ones have each line exchanged for one of the same place in another of them.

Made by `{command}` with Python {python}, torch {torch}.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=Path, default=POEM_GPT, help="folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    g, device = seed_everything(options.seed), pick_device()

    training, validation = tang_poems("train"), tang_poems("validation")
    vocabulary = vocabulary_of(training)
    rows, validation_rows = as_rows(training, vocabulary), as_rows(validation, vocabulary).to(device)
    config = GPTConfig(len(vocabulary), CONTEXT, n_layer=4, n_head=6, n_embd=192, **MODERN)
    model = GPT(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    batches = Batches(rows, batch_size=BATCH_SIZE, seed=options.seed)
    began = time.monotonic()
    history = train(
        lambda batch: poem_loss(model, batch), model, batches, optimizer=optimizer, steps=options.steps,
        schedule=warmup_cosine, clip_norm=1.0, checkpoint="poem_gpt", config=asdict(config), desc="poems",
    )  # fmt: skip
    minutes = (time.monotonic() - began) / 60

    samples = sample(model, vocabulary, options.samples, g)
    print("\n".join(samples[:8]))
    loss = validation_loss(model, validation_rows)
    figures = {"validation loss, nats a token": loss, "validation perplexity": math.exp(loss)}
    real = {name: judge(poems, training) for name, poems in (
        ("samples", samples), ("real poems", validation), ("shuffled lines", shuffle_lines(validation))
    )}  # fmt: skip
    figures |= {f"{who}: {what}": value for who, judged in real.items() for what, value in judged.items()}
    for name, value in figures.items():
        print(f"{name:<70} {value:.4f}")

    weights = {n: v.half().cpu().contiguous() for n, v in model.state_dict().items() if n != "head.weight"}
    write_atomically(options.target / "model.safetensors", save(weights))
    about = {"model": asdict(config), "characters": vocabulary.characters}  # in one line: no line ends to be changed
    write_atomically(options.target / "config.json", json.dumps(about, ensure_ascii=False).encode())
    tokens = sum(int((batches[i][:, 1:] != IGNORED).sum()) for i in range(len(history)))
    card = CARD.format(
        config=f"{config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, context {CONTEXT}",
        parameters=count_parameters(config), rows=len(rows), training=len(training), validation=len(validation),
        characters=len(vocabulary.characters), seen=SEEN, validation_rows=len(validation_rows), steps=len(history),
        batch_size=BATCH_SIZE, tokens=tokens, rate=LEARNING_RATE, seed=options.seed, minutes=minutes,
        threads=options.threads, samples=options.samples, python=platform.python_version(), torch=version("torch"),
        figures="\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items()),
        command=" ".join(["python -m aigc_course.recipes.poems", *sys.argv[1:]]),
    )  # fmt: skip
    write_atomically(options.target / "README.md", card.encode())
    print_sums(options.target)


if __name__ == "__main__":
    main()
