"""What each change of the modern recipe buys: `python -m aigc_course.recipes.gpt_changes --seeds 0 1 2`.

Trains small GPTs on the characters of movie reviews, all on the same number of characters, and writes the validation
losses in nats a character to data/results/gpt_changes.json: "changes" (each added to those before), "rates" (peak
learning rates of the first and the last), and "training" (of the last: schedule, batch size, Muon).
"""

from functools import cache

import torch
import torch.nn.functional as F

from aigc_course.data import Batches
from aigc_course.language import review_splits
from aigc_course.models.gpt import GPT, GPTConfig, count_parameters
from aigc_course.recipes.results import seeds_of, write_results
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import Both, train

CHARACTERS, VALIDATION = 1_000_000, 100_000  # of the training and of the validation reviews
SHAPE = dict(context_length=64, n_layer=4, n_head=2, n_embd=64)
STEPS, BATCH_SIZE, RATE = 600, 8, 3e-3
MODERN = dict(norm="rms", positions="rotary", activation="relu2")
CHANGES = {  # name: (options, output projections start at zero)
    "GPT-2": ({}, False),
    "+ rotary positions": (dict(positions="rotary"), False),
    "+ squared ReLU": (dict(positions="rotary", activation="relu2"), False),
    "+ projections from zero": (dict(positions="rotary", activation="relu2"), True),
    "+ RMS and QK norms": (MODERN, True),
}
TRAINING = {  # name: what is different
    "as above": {},
    "rate never falls": dict(schedule=lambda fraction: min(1.0, (fraction + 0.01) / 0.05)),
    "batches of 2, 4 times the steps": dict(batch_size=BATCH_SIZE // 4, steps=STEPS * 4),
    "batches of 32, a quarter of the steps": dict(batch_size=BATCH_SIZE * 4, steps=STEPS // 4),
    "Muon for the matrices": dict(muon=True),
}


def warmup_linear(fraction, warmup=0.05, end=0.02):
    """Factor on the learning rate: linear up to 1 during `warmup`, then linear down to `end`."""
    return min((fraction + 0.01) / warmup, end + (1 - end) * (1 - fraction) / (1 - warmup), 1.0)


@cache
def review_characters():
    """(alphabet, training, validation): a text and two int64 tensors of places in it."""
    splits = review_splits()
    training, validation = "\n\n".join(splits["train"]), "\n\n".join(splits["validation"])
    training, validation = training[:CHARACTERS], validation[:VALIDATION]
    place = {character: i for i, character in enumerate(sorted(set(training)))}
    ids = [torch.tensor([place[c] for c in text if c in place]) for text in (training, validation)]
    return "".join(place), *ids


def text_windows(ids, T):
    """The text cut in windows of T characters, each with the one that follows: `(N, T + 1)`."""
    return ids[: (len(ids) - 1) // T * T + 1].unfold(0, T + 1, T)


def window_loss(model, rows, reduction="mean"):
    """Cross-entropy in nats of each token of rows `(B, T + 1)` but the first, given those before it."""
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten(), reduction=reduction)


def make_optimizer(model, rate, muon=False):
    """AdamW for all, or Muon for the matrices of the blocks and AdamW for the rest."""
    adamw = dict(lr=rate, betas=(0.9, 0.99), weight_decay=0.1)
    if not muon:
        return torch.optim.AdamW(model.parameters(), **adamw)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or not name.startswith("blocks")]
    updates = torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    return Both(updates, torch.optim.AdamW(rest, **adamw))


def trained(
    seed, options, zero, rate=RATE, batch_size=BATCH_SIZE, steps=STEPS, schedule=warmup_linear, muon=False
):  # fmt: skip
    """One training; the validation loss in nats a character."""
    seed_everything(seed)
    device, (alphabet, training, validation) = pick_device(), review_characters()
    model = GPT(GPTConfig(len(alphabet), **SHAPE, **options)).to(device)
    if zero:
        for name, parameter in model.named_parameters():
            if name.endswith("project.weight"):
                torch.nn.init.zeros_(parameter)
    rows, held_out = (text_windows(ids, SHAPE["context_length"]) for ids in (training, validation))
    batches, optimizer = Batches(rows, batch_size=batch_size, seed=seed), make_optimizer(model, rate, muon)
    train(
        lambda batch: window_loss(model, batch), model, batches, optimizer=optimizer, steps=steps,
        schedule=schedule, clip_norm=1.0,
    )  # fmt: skip
    with torch.no_grad():
        total = sum(window_loss(model, part.to(device), "sum").item() for part in held_out.split(256))
    return total / held_out[:, 1:].numel()


def main():
    seeds = seeds_of(__doc__)
    alphabet = review_characters()[0]
    parameters = {name: count_parameters(GPTConfig(len(alphabet), **SHAPE, **o)) for name, (o, _) in CHANGES.items()}
    characters = STEPS * BATCH_SIZE * SHAPE["context_length"]
    results = {"parameters": parameters, "characters": characters, "changes": [], "rates": [], "training": []}
    last, first = list(CHANGES)[-1], "GPT-2"
    for seed in seeds:
        changes = {name: trained(seed, *change) for name, change in CHANGES.items()}
        results["changes"].append({"seed": seed, **changes})
        print(results["changes"][-1], flush=True)
        rates = {
            name: {str(rate): changes[name] if rate == RATE else trained(seed, *CHANGES[name], rate=rate)
                   for rate in (1e-3, RATE, 1e-2)}
            for name in (first, last)
        }  # fmt: skip
        results["rates"].append({"seed": seed, **rates})
        print(results["rates"][-1], flush=True)
        other = {name: trained(seed, *CHANGES[last], **change) for name, change in TRAINING.items() if change}
        results["training"].append({"seed": seed, "as above": changes[last], **other})
        print(results["training"][-1], flush=True)
    write_results("gpt_changes", results)


if __name__ == "__main__":
    main()
