"""Lesson 03's recipe: whole results, augmentations that do what they say."""

import pytest
import torch

from aigc_course.data import stored_results
from aigc_course.recipes.generalisation import TECHNIQUES, data_of, fit, flipped, judge, network, shifted


@pytest.fixture(scope="module")
def toy():
    """Data as the recipe has them, but random and few."""
    g = torch.Generator().manual_seed(0)
    sizes = {"train": 100, "validation": 60, "test": 60}
    return {k: (torch.rand(n, 28, 28, generator=g), torch.randint(10, (n,), generator=g)) for k, n in sizes.items()}


def test_the_stored_results_are_whole():
    runs = stored_results("generalisation")["runs"]
    seeds = {run["seed"] for run in runs}
    assert len(seeds) == 5
    wanted = [(name, settings) for name, options in TECHNIQUES.items() for settings in options] + [("5,000 images", {})]
    for technique, settings in wanted:
        found = [run["seed"] for run in runs if (run["technique"], run["settings"]) == (technique, settings)]
        assert sorted(found) == sorted(seeds)
    assert len(runs) == len(wanted) * len(seeds)


def test_seeds_have_images_of_their_own_and_share_the_others():
    one, other = data_of(0), data_of(1)
    assert not torch.equal(one["train"][0], other["train"][0])
    assert torch.equal(one["validation"][0], other["validation"][0])
    assert torch.equal(one["test"][1], other["test"][1])
    ends = [seed % 10 * 5000 + 5000 for seed in range(10)]
    assert max(ends) <= 50_000  # where the validation images begin


def test_shifted_moves_whole_images_and_fills_with_black():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(200, 9, 7, generator=g) + 0.1
    new = shifted(x, g, 2)
    assert new.shape == x.shape
    wide = torch.nn.functional.pad(x, (2, 2, 2, 2))
    places = set()
    for i in range(len(x)):
        found = [(a, b) for a in range(5) for b in range(5) if torch.equal(wide[i, a : a + 9, b : b + 7], new[i])]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) == 25


def test_flipped_turns_about_half_left_to_right():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1000, 4, 5, generator=g)
    new = flipped(x, g)
    turned = (new == x.flip(2)).all(2).all(1)
    assert ((new == x).all(2).all(1) ^ turned).all() and 400 < turned.sum() < 600


def test_fit_keeps_the_network_with_the_lowest_validation_loss(toy):
    last, best, curve = fit(toy, 0, 60, every=5)
    losses = [validation[0] for _, _, validation in curve]
    assert [step for step, _, _ in curve] == list(range(5, 61, 5))
    assert judge(best, toy["validation"])[0] == min(losses) < losses[-1] == judge(last, toy["validation"])[0]


def test_fit_starts_from_the_seed_and_repeats_itself(toy):
    settings = dict(dropout=0.3, smoothing=0.1, shift=1, flip=True, decay=1.0)
    one, other = (fit(toy, 3, 10, every=5, **settings)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    assert not torch.equal(network(3)[1].weight, one[1].weight)
    assert torch.equal(network(3)[1].weight, network(3, 0.5)[1].weight)
