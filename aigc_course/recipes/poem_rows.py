"""Rows of one poem each, or windows of a stream of poems? `python -m aigc_course.recipes.poem_rows --seeds 0 1 2`.

Trains lesson 12's small poem model both ways, same steps and batch size, and writes to data/results/poem_rows.json how
many of 200 free samples keep an exact form, along training ("steps" and "shares") and at the end ("share").
"""

import torch
import torch.nn.functional as F

from aigc_course.data import Batches
from aigc_course.models.gpt import GPT, GPTConfig, count_parameters
from aigc_course.poems import Characters, form, tang_poems
from aigc_course.recipes.poems import CONTEXT, IGNORED, MODERN, as_rows, poem_loss, sample
from aigc_course.recipes.results import seeds_of, write_results
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import train, warmup_cosine

STEPS, BATCH_SIZE, RATE, SAMPLES, SEEN = 800, 16, 5e-3, 200, 100
SHAPE = dict(n_layer=3, n_head=3, n_embd=96, **MODERN)


def frequent_characters(poems):
    """The characters that at least `SEEN` of the poems hold, in the order of their code points."""
    counts = {}
    for poem in poems:
        for character in set(poem):
            counts[character] = counts.get(character, 0) + 1
    return Characters("".join(sorted(c for c, n in counts.items() if n >= SEEN)))


class Windows:
    """`batches[step]`: windows `(B, CONTEXT + 1)` at random places of the poems, one behind the other."""

    def __init__(self, rows, seed):
        poems = rows[:, 1:]
        self.stream = F.pad(poems[poems != IGNORED], (1, 0))  # a boundary stands before every poem and at the end
        self.g = torch.Generator().manual_seed(seed)

    def __getitem__(self, step):
        starts = torch.randint(len(self.stream) - CONTEXT, (BATCH_SIZE, 1), generator=self.g)
        return self.stream[starts + torch.arange(CONTEXT + 1)]


def share_in_form(model, vocabulary, seed):
    """The share of free samples in exact regular form."""
    poems = sample(model, vocabulary, SAMPLES, torch.Generator().manual_seed(seed))
    return sum(form(poem) is not None for poem in poems) / SAMPLES


def trained(way, seed, vocabulary, rows, every=STEPS // 8):
    """One training; the shares in exact form along it."""
    seed_everything(seed)
    model = GPT(GPTConfig(len(vocabulary), CONTEXT, **SHAPE)).to(pick_device())
    batches = Batches(rows, batch_size=BATCH_SIZE, seed=seed) if way == "rows" else Windows(rows, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    shares = []

    def evaluate():
        shares.append(share_in_form(model, vocabulary, seed))
        return -len(shares)  # each counts as the best, so that the weights of the last step stay

    train(
        lambda batch: poem_loss(model, batch), model, batches, optimizer=optimizer, steps=STEPS,
        schedule=warmup_cosine, clip_norm=1.0, evaluate=evaluate, evaluate_every=every,
    )  # fmt: skip
    return {"steps": [every * (i + 1) for i in range(len(shares))], "shares": shares, "share": shares[-1]}


def main():
    seeds = seeds_of(__doc__)
    training = tang_poems("train")
    vocabulary = frequent_characters(training)
    rows = as_rows(training, vocabulary)
    parameters = count_parameters(GPTConfig(len(vocabulary), CONTEXT, **SHAPE))
    results = {"poems": len(rows), "characters": len(vocabulary.characters), "parameters": parameters, "seeds": []}
    for seed in seeds:
        found = {way: trained(way, seed, vocabulary, rows) for way in ("rows", "windows")}
        results["seeds"].append({"seed": seed, **found})
        print(results["seeds"][-1], flush=True)
    write_results("poem_rows", results)


if __name__ == "__main__":
    main()
