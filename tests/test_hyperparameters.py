"""Lesson 02's recipe: whole results, budgets that are kept."""

import json

import optuna
import pytest
import torch

from aigc_course.data import stored_results
from aigc_course.recipes import hyperparameters
from aigc_course.recipes.hyperparameters import OPTIMISERS, RATES, SCHEDULES, WAYS, one_run, search


@pytest.fixture(scope="module")
def toy():
    """Data as the recipe has them, but random and few."""
    g = torch.Generator().manual_seed(0)
    sizes = {"train": 128, "validation": 64, "test": 64}
    return {k: (torch.rand(n, 196, generator=g), torch.randint(10, (n,), generator=g)) for k, n in sizes.items()}


def test_the_stored_results_are_whole():
    stored = stored_results("hyperparameters")
    seeds = {row["seed"] for row in stored["grid"]}
    assert len(seeds) >= 5
    grid = {(row["optimiser"], row["lr"], row["seed"]) for row in stored["grid"]}
    assert grid == {(name, lr, seed) for name in OPTIMISERS for lr in RATES for seed in seeds}
    assert {row["schedule"] for row in stored["schedules"]} == set(SCHEDULES)
    searches = {(row["way"], row["seed"]) for row in stored["search"]}
    assert searches == {(way, seed) for way in WAYS for seed in range(len(stored["search"]) // len(WAYS))}
    for row in stored["search"]:
        spent = row["curve"][-1][0]
        assert spent <= hyperparameters.TRIALS * hyperparameters.TRIAL_STEPS
        assert len(row["curve"]) == row["trials"] >= hyperparameters.TRIALS


def test_a_run_that_blows_up_is_stored_without_a_loss(toy):
    row = one_run("SGD", 1e30, 0, toy, steps=4)
    assert row["train_loss"] is None and 0 <= row["test_accuracy"] <= 1
    json.dumps(row, allow_nan=False)


def test_pruned_trials_leave_more_for_others(toy):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {}
    for name, pruner in (("all", optuna.pruners.NopPruner()), ("pruned", optuna.pruners.MedianPruner(2))):
        sampler = optuna.samplers.RandomSampler(seed=0)
        study, curve = search(sampler, pruner, 0, toy, budget=48, steps=6, every=2)
        assert curve[-1][0] <= 48 and [best for _, best in curve] == sorted((b for _, b in curve), reverse=True)
        found[name] = study
    assert len(found["all"].trials) == 8 < len(found["pruned"].trials)
    same = [trial.params for trial in found["all"].trials[:3]]
    assert same == [trial.params for trial in found["pruned"].trials[:3]]
