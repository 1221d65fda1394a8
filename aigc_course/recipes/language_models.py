"""Lesson 10's table over several seeds: `python -m aigc_course.recipes.language_models --seeds 0 1 2`.

Writes data/results/language_models.json: "counted" holds unigram, bigram and trigram, which need no seed, and "seeds"
the two networks. All are scored on the 400 test reviews by `aigc_course.language`; nothing is chosen by them.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F

from aigc_course.data import Batches
from aigc_course.language import (
    VOCAB_SIZE,
    encode_reviews,
    review_splits,
    review_tokenizer,
    score,
    token_nll,
    training_rows,
)
from aigc_course.models.language import LSTMModel, NGram, WindowMLP, fit_weights, ngram_keys, ngram_probabilities
from aigc_course.recipes.results import write_results
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import one_cycle, train

NETWORKS = {"MLP": (WindowMLP, 1200, 5e-3), "LSTM": (LSTMModel, 1600, 1.5e-2)}  # class, steps, peak learning rate
ROW_LENGTH, BATCH_SIZE = 64, 16


def counted(reviews, texts):
    """Scores of the interpolated n-gram models, n = 1, 2, 3."""
    tables = [NGram(reviews["train"], n, VOCAB_SIZE) for n in (1, 2, 3)]
    keys = [ngram_keys(reviews[split], 3, VOCAB_SIZE) for split in ("validation", "test")]
    validation, test = (ngram_probabilities(tables, of_split) for of_split in keys)  # (4, N) each
    rows = {}
    for n, name in enumerate(("unigram", "bigram", "trigram"), 1):
        mixture = fit_weights(validation[: n + 1]) @ test[: n + 1]
        stored = sum(len(table.counts) for table in tables[:n])
        rows[name] = {**score(-mixture.log(), texts), "parameters": stored}
    return rows


def trained(name, seed, reviews, texts):
    """One training as in the lesson, and its scores."""
    kind, steps, lr = NETWORKS[name]
    g, device = seed_everything(seed), pick_device()
    model = kind(VOCAB_SIZE).to(device)

    def step(batch):
        inputs, labels = batch
        return F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())

    batches = Batches(*training_rows(reviews["train"], ROW_LENGTH), batch_size=BATCH_SIZE, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = partial(one_cycle, warmup=0.1)
    train(step, model, batches, optimizer=optimizer, steps=steps, schedule=schedule, clip_norm=1.0, generator=g)
    parameters = sum(p.numel() for p in model.parameters())
    return {**score(token_nll(model, reviews["test"]), texts), "parameters": parameters, "steps": steps}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    tokenizer = review_tokenizer()
    reviews = {split: encode_reviews(texts, tokenizer) for split, texts in review_splits().items()}
    texts = review_splits()["test"]
    results = {"counted": counted(reviews, texts), "seeds": []}
    print(results["counted"], flush=True)
    for seed in options.seeds:
        results["seeds"].append({"seed": seed, **{name: trained(name, seed, reviews, texts) for name in NETWORKS}})
        print(results["seeds"][-1], flush=True)
    write_results("language_models", results)


if __name__ == "__main__":
    main()
