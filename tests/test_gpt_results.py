"""What lesson 12's recipes stored is what lesson 12 says of it, and the recipes still run."""

import pytest
import torch

from aigc_course.data import stored_results
from aigc_course.models.gpt import GPT, GPTConfig
from aigc_course.poems import tang_poems
from aigc_course.recipes import gpt_changes, gpt_reviews, poem_rows
from aigc_course.recipes.poems import CONTEXT, IGNORED, as_rows


def stored(name):
    return stored_results(name)


@pytest.mark.parametrize("name", ["gpt_changes", "gpt_reviews", "poem_rows"])
def test_results_say_how_they_were_made(name):
    made_by = stored(name)["made_by"]
    assert made_by["command"].startswith(f"python -m aigc_course.recipes.{name} --seeds 0 1 2")
    assert {"python", "torch", "threads", "machine"} <= made_by.keys()


def test_results_hold_every_change_and_every_seed():
    results = stored("gpt_changes")
    for part in ("changes", "rates", "training"):
        assert [row["seed"] for row in results[part]] == [0, 1, 2]
    assert all(list(row) == ["seed", *gpt_changes.CHANGES] for row in results["changes"])
    assert all(list(row) == ["seed", *gpt_changes.TRAINING] for row in results["training"])
    first, last = list(gpt_changes.CHANGES)[0], list(gpt_changes.CHANGES)[-1]
    assert results["parameters"][last] < results["parameters"][first]
    for changes, rates in zip(results["changes"], results["rates"]):
        assert changes[last] < changes[first] < 3
        assert rates[first][str(gpt_changes.RATE)] == changes[first]


def test_rows_of_one_poem_keep_the_form_better_than_windows():
    for row in stored("poem_rows")["seeds"]:
        assert row["rows"]["share"] > row["windows"]["share"]


def test_the_transformer_is_better_than_counting_pairs():
    bigram = stored("language_models")["counted"]["bigram"]["perplexity"]
    rows = stored("gpt_reviews")["seeds"]
    assert [row["seed"] for row in rows] == [0, 1, 2] and all(row["steps"] == gpt_reviews.STEPS for row in rows)
    assert all(row["perplexity"] < bigram for row in rows)


def test_on_as_many_tokens_the_transformer_is_about_as_good_as_the_lstm():
    lstm = [row["LSTM"] for row in stored("language_models")["seeds"]]
    rows = stored("gpt_reviews")["longer"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert all(row["steps"] == gpt_reviews.LONGER == lstm[0]["steps"] for row in rows)
    assert all(0.9 < row["perplexity"] / lstm[0]["perplexity"] < 1.1 for row in rows)


def test_windows_are_pieces_of_the_poems():
    poems = tang_poems("train")[:40]
    vocabulary = poem_rows.Characters("".join(sorted(set("".join(poems)))))
    windows = poem_rows.Windows(as_rows(poems, vocabulary), seed=0)
    text = "".join("|" + poem for poem in poems) + "|"
    for row in windows[0]:
        assert row.shape == (CONTEXT + 1,) and (row != IGNORED).all()
        assert "".join("|" if t == 0 else vocabulary.decode([t]) for t in row.tolist()) in text


def test_schedule_rises_and_falls():
    factors = [gpt_changes.warmup_linear(i / 100) for i in range(101)]
    assert max(factors) <= 1 and factors[5] > 0.95 and factors[100] == pytest.approx(0.02) and factors[0] < 0.3
    assert factors[5:] == sorted(factors[5:], reverse=True)


@pytest.mark.parametrize("muon", [False, True])
def test_every_parameter_is_in_one_optimiser(muon):
    torch.manual_seed(0)
    model = GPT(GPTConfig(20, 8, 2, 2, 16, **gpt_changes.MODERN))
    optimizer = gpt_changes.make_optimizer(model, 1e-2, muon)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in model.parameters()}
    before = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(2):  # after one step only the projections, which start at zero, pass a gradient on
        optimizer.zero_grad()
        gpt_changes.window_loss(model, torch.randint(20, (4, 9))).backward()
        optimizer.step()
    assert all((p != before[name]).any() for name, p in model.named_parameters())


def test_the_reviews_row_has_the_lessons_shape():
    assert gpt_reviews.CONFIG.vocab_size == 2048 and gpt_reviews.CONFIG.norm == "rms"
