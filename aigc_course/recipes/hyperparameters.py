"""Lesson 02's network over many seeds: `python -m aigc_course.recipes.hyperparameters --seeds 0 1 2 3 4`.

Writes data/results/hyperparameters.json. "grid": every optimiser at every learning rate. "schedules": learning-rate
schedules at several peaks. "search": four ways to look for hyperparameters, at equal budgets in training steps.
Losses are in nats an image. Everything is chosen on the validation images; the test images are only reported.
"""

import argparse
import math

import optuna
import torch
import torch.nn.functional as F
from torch import nn

from aigc_course.data import Batches, fashion_mnist
from aigc_course.recipes.results import write_results
from aigc_course.runtime import progress
from aigc_course.training import one_cycle, warmup_cosine

STEPS, TRIAL_STEPS, CHECK_EVERY, TRIALS, RETRAIN = 400, 160, 40, 30, 5  # as in the lesson at "cpu"
RATES = tuple(10 ** (k / 2) for k in range(-8, 2))  # from 1e-4 to 3.2
PEAKS = {"momentum": (0.01, 0.03, 0.1, 0.3), "Adam": (0.003, 0.01, 0.03, 0.1)}


def clothes(split, first, last):
    """Fashion-MNIST at half size: pixels `(N, 196)` in [0, 1] and labels `(N,)` of the images `first` to `last`."""
    images, labels = fashion_mnist(split)
    pixels = F.avg_pool2d(images[first:last, None].float() / 255, 2)  # (N, 1, 14, 14)
    return pixels.flatten(1), labels[first:last]


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(196, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


OPTIMISERS = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "Nesterov": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
    "RMSprop": lambda p, lr: torch.optim.RMSprop(p, lr),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr),
    "AdamW": lambda p, lr: torch.optim.AdamW(p, lr),
}
SCHEDULES = {
    "constant": lambda fraction: 1.0,
    "cosine": lambda fraction: warmup_cosine(fraction, warmup=0.0, end=0.0),
    "warm-up, cosine": lambda fraction: warmup_cosine(fraction, warmup=0.1, end=0.0),
    "one-cycle": one_cycle,
}


def fit(model, optimiser, batches, steps, schedule=None):
    """Trains `model` in place; returns the loss of each step."""
    peaks, losses = [group["lr"] for group in optimiser.param_groups], []
    for i in range(steps):
        for group, peak in zip(optimiser.param_groups, peaks):
            group["lr"] = peak * (schedule(i / steps) if schedule else 1.0)
        x, y = batches[i]
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def judge(model, data):
    """Loss in nats an image, and accuracy; a network that has blown up gets an infinite loss."""
    logits = model(data[0])
    loss, right = F.cross_entropy(logits, data[1]).item(), (logits.argmax(1) == data[1]).float().mean().item()
    return loss if math.isfinite(loss) else math.inf, right


def one_run(name, lr, seed, data, steps, schedule=None):
    """One training of the lesson's network; its scores as a dict. A loss that is no finite number is None."""
    model = network(seed)
    batches = Batches(*data["train"], batch_size=64, seed=seed)
    fit(model, OPTIMISERS[name](model.parameters(), lr), batches, steps, schedule)
    row = {"optimiser": name, "lr": lr, "seed": seed}
    for part in ("train", "validation", "test"):
        loss, accuracy = judge(model, data[part])
        row |= {f"{part}_loss": loss if math.isfinite(loss) else None, f"{part}_accuracy": accuracy}
    return row


# --- the search ---


def suggest(trial):
    """A point of the search space: AdamW's settings and the warm-up."""
    return dict(
        lr=trial.suggest_float("lr", 1e-5, 1.0, log=True),
        gap1=trial.suggest_float("gap1", 0.003, 1.0, log=True),  # 1 - beta1
        gap2=trial.suggest_float("gap2", 0.0003, 0.3, log=True),  # 1 - beta2
        decay=trial.suggest_float("decay", 1e-4, 10.0, log=True),
        warmup=trial.suggest_float("warmup", 0.0, 0.5),
    )


def train_part_by_part(settings, seed, data, steps, every):
    """Trains with AdamW; after every `every` steps yields (steps so far, model)."""
    model, batches = network(seed), Batches(*data["train"], batch_size=64, seed=seed)
    betas = 1 - settings["gap1"], 1 - settings["gap2"]
    optimiser = torch.optim.AdamW(model.parameters(), settings["lr"], betas, weight_decay=settings["decay"])
    for begin in range(0, steps, every):
        for i in range(begin, begin + every):
            optimiser.param_groups[0]["lr"] = settings["lr"] * warmup_cosine(i / steps, settings["warmup"], end=0.0)
            loss = F.cross_entropy(model(batches[i][0]), batches[i][1])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield begin + every, model


def search(sampler, pruner, seed, data, budget, steps, every):
    """Runs trials until `budget` training steps are spent; returns the study and [(steps spent, best loss)]."""
    study, spent, curve = optuna.create_study(sampler=sampler, pruner=pruner), 0, []
    while spent + steps <= budget:
        trial, state = study.ask(), None
        for done, model in train_part_by_part(suggest(trial), 1000 * seed + trial.number, data, steps, every):
            loss = min(judge(model, data["validation"])[0], 100.0)  # finite, for Optuna
            trial.report(loss, done)
            if done < steps and trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        study.tell(trial, None if state else loss, state=state)
        spent += done
        curve.append((spent, study.best_value))
    return study, curve


WAYS = {
    "random": (optuna.samplers.RandomSampler, optuna.pruners.NopPruner),
    "random, pruning": (optuna.samplers.RandomSampler, optuna.pruners.MedianPruner),
    "TPE": (optuna.samplers.TPESampler, optuna.pruners.NopPruner),
    "TPE, pruning": (optuna.samplers.TPESampler, optuna.pruners.MedianPruner),
}


def one_search(way, seed, data, trials=TRIALS):
    """One search, and its winner trained anew with other seeds."""
    sampler, pruner = WAYS[way]
    study, curve = search(sampler(seed=seed), pruner(), seed, data, trials * TRIAL_STEPS, TRIAL_STEPS, CHECK_EVERY)
    again, right = [], []
    for k in range(RETRAIN):
        *_, (_, model) = train_part_by_part(study.best_params, 10**6 + k, data, TRIAL_STEPS, CHECK_EVERY)
        again.append(min(judge(model, data["validation"])[0], 100.0))
        right.append(judge(model, data["test"])[1])
    return {
        "way": way,
        "seed": seed,
        "best": study.best_value,
        "again": again,  # validation losses of the trainings anew
        "test_accuracy": right,
        "trials": len(study.trials),
        "settings": study.best_params,
        "curve": curve,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of grid and schedules")
    parser.add_argument("--searches", type=int, default=16, help="searches of each kind, with seeds from 0")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    parts = {"train": ("train", 0, 10_000), "validation": ("train", 50_000, 55_000), "test": ("test", 0, 10_000)}
    data = {name: clothes(*rows) for name, rows in parts.items()}
    results = {"grid": [], "schedules": [], "search": []}
    for name in OPTIMISERS:
        for lr in progress(RATES, desc=name):
            results["grid"] += [one_run(name, lr, seed, data, STEPS) for seed in options.seeds]
    for name, peaks in PEAKS.items():
        for schedule in progress(SCHEDULES, desc=f"schedules of {name}"):
            for lr in peaks:
                for seed in options.seeds:
                    row = one_run(name, lr, seed, data, STEPS, SCHEDULES[schedule])
                    results["schedules"].append({"schedule": schedule, **row})
    for seed in progress(range(options.searches), desc="searches"):
        results["search"] += [one_search(way, seed, data) for way in WAYS]
    write_results("hyperparameters", results)


if __name__ == "__main__":
    main()
