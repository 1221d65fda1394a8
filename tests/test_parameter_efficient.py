"""Lesson 15's methods on a small GPT-2 of random weights, its recipe's parts, and what the recipe stored."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from aigc_course.data import stored_results
from aigc_course.finetuning import fine_tune, nats_per_token, pack, pad, set_dropout
from aigc_course.models.adapters import (
    add_adalora,
    add_adapters,
    add_lora,
    add_prefix,
    count_trainable,
    ranks,
    train_adalora,
)
from aigc_course.recipes import parameter_efficient as recipe

METHODS = ("LoRA", "AdaLoRA", "adapter", "prefix")  # at equal budgets


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    shape = dict(vocab_size=61, n_positions=48, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(GPT2Config(**shape)).eval()
    set_dropout(model, 0.0)
    for parameter in model.parameters():
        parameter.data = parameter + 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def rows():
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(5, 12, (24,), generator=g).tolist()
    return [torch.cat((torch.tensor([0]), torch.randint(1, 61, (n,), generator=g))) for n in lengths]


def prepared(method, base, rows, steps=20):
    torch.manual_seed(0)
    return recipe.prepare(method, copy.deepcopy(base), rows, steps)


@torch.no_grad()
def logits(model, rows):
    return model(**pad(rows[:5])).logits


@pytest.mark.parametrize("method", ["LoRA", "AdaLoRA", "adapter", "last block", "biases", "full"])
def test_every_method_but_the_prefix_starts_as_the_base_to_the_bit(method, base, rows):
    assert torch.equal(logits(prepared(method, base, rows), rows), logits(base, rows))


def test_a_prefix_moves_the_logits_and_a_mask_takes_it_out(base, rows):
    model, batch = prepared("prefix", base, rows), pad(rows[:5])
    assert (logits(model, rows) - logits(base, rows)).abs().max() > 1e-2
    n, T = model.keys.shape[2], batch["input_ids"].shape[1]
    mask = torch.cat((torch.zeros(5, n, dtype=torch.long), batch["attention_mask"]), 1)
    with torch.no_grad():
        without = base(
            batch["input_ids"], attention_mask=mask, position_ids=torch.arange(T)[None], past_key_values=model.past(5)
        ).logits
    assert_close(without, logits(base, rows), atol=1e-5, rtol=0)


def test_a_prefix_of_words_is_what_a_text_before_would_be(base, rows):
    text = rows[0][None]
    model = add_prefix(copy.deepcopy(base), text[0, :3])
    rest = dict(input_ids=text[:, 3:], attention_mask=torch.ones_like(text[:, 3:]))
    with torch.no_grad():
        whole = base(text).logits[:, 3:]
        assert_close(model(**rest, position_ids=torch.arange(3, text.shape[1])[None]).logits, whole, atol=1e-5, rtol=0)


def test_packed_and_padded_rows_give_the_same_loss_with_a_prefix(base, rows):
    model = prepared("prefix", base, rows)
    with torch.no_grad():
        assert_close(model(**pack(rows)).loss, model(**pad(rows)).loss)


def test_budgets_are_equal(base, rows):
    count = {method: count_trainable(prepared(method, base, rows)) for method in METHODS}
    layers, d = base.config.n_layer, base.config.n_embd
    assert count["LoRA"] == count["prefix"] == 4 * layers * d * recipe.R
    assert count["adapter"] == count["LoRA"] + layers * (2 * recipe.R - 1)
    assert count["AdaLoRA"] == layers * (recipe.R + recipe.R // 2) * (4 * d + 1)


@pytest.mark.parametrize("method", recipe.FIRST_RATE)
def test_training_moves_what_a_method_trains_and_nothing_else(method, base, rows):
    model = prepared(method, base, rows, steps=len(rows) // 4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    if method == "AdaLoRA":
        train_adalora(model, rows, rate=1e-2, batch_size=4)
    else:
        fine_tune(model, rows, rows[:4], epochs=1, rate=1e-2, batch_size=4, evaluations=1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= wanted and len(moved) > 0.8 * len(wanted)


def test_our_lora_is_pefts(base, rows):
    ours = add_lora(copy.deepcopy(base), 3, 7)
    config = LoraConfig(r=3, lora_alpha=7, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    theirs = get_peft_model(copy.deepcopy(base), config)
    for a, b in zip(ours.transformer.h, theirs.get_base_model().transformer.h):
        a, b = a.attn.c_attn, b.attn.c_attn
        torch.nn.init.normal_(a.B)
        b.lora_A["default"].weight.data, b.lora_B["default"].weight.data = a.A.data.clone(), a.B.data.clone()
    assert_close(logits(ours, rows), logits(theirs, rows))
    assert (logits(ours, rows) - logits(base, rows)).abs().max() > 0.1


def test_adalora_ends_at_its_budget_and_its_own_loss_is_not_the_plain_one(base, rows):
    model = prepared("AdaLoRA", base, rows, steps=24)
    assert ranks(model) == [0, 0]  # its singular values start at zero
    train_adalora(model, rows, rate=3e-2, batch_size=1)
    assert 0 < sum(ranks(model)) <= recipe.R * base.config.n_layer
    with torch.no_grad():
        assert model(**pad(rows)).loss > model.get_base_model()(**pad(rows)).loss + 0.01


def test_both_at_zero_never_learn(base, rows):
    model = add_lora(copy.deepcopy(base), 2, 4)
    for block in model.transformer.h:
        torch.nn.init.zeros_(block.attn.c_attn.A)
    fine_tune(model, rows, rows[:4], epochs=2, rate=1e-2, batch_size=4)
    assert all((p == 0).all() for p in model.parameters() if p.requires_grad)


def test_adapters_have_the_width_that_was_asked_for(base):
    model = add_adapters(copy.deepcopy(base), 3, 5)
    block = model.transformer.h[1]
    assert block.attn.c_proj[1].down.weight.shape == (3, 16) and block.mlp.c_proj[1].down.weight.shape == (5, 16)


# --- the recipe ---


@pytest.mark.parametrize("best", range(len(recipe.RATES)))
def test_the_search_climbs_to_the_best_rate_and_asks_its_neighbours(best):
    asked = []

    def attempt(rate):
        asked.append(rate)
        return {"validation": 10 + abs(recipe.RATES.index(rate) - best)}

    assert recipe.search("LoRA", attempt) == recipe.RATES[best]
    near = {recipe.RATES[i] for i in (best - 1, best, best + 1) if 0 <= i < len(recipe.RATES)}
    assert near <= set(asked)


def test_a_diverged_rate_loses_the_search():
    good = recipe.FIRST_RATE["LoRA"]
    assert recipe.search("LoRA", lambda rate: {"validation": 50 if rate <= good else None}) <= good


def test_what_is_kept_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("AIGC_CHECKPOINTS", str(tmp_path))
    made = []
    kept = recipe.Kept([1])
    assert kept("a", lambda: made.append(1) or {"x": 1.5}) == {"x": 1.5}
    assert recipe.Kept([1])("a", lambda: made.append(2)) == {"x": 1.5} and made == [1]
    assert recipe.Kept([2]).rows == {}  # other settings


def test_bytes_kept_for_the_backward_pass(base, rows):
    full = recipe.kept_for_backward(copy.deepcopy(base), pack(rows))
    lora = recipe.kept_for_backward(prepared("LoRA", base, rows), pack(rows))
    last = recipe.kept_for_backward(prepared("last block", base, rows), pack(rows))
    assert full > lora > last > 0
    assert recipe.kept_for_backward(copy.deepcopy(base), pack(rows[:12])) < 0.7 * full  # they grow with the batch


def test_peak_memory_is_that_of_this_process():
    before = recipe.peak_memory()
    block = torch.ones(50_000_000)  # 200 MB
    assert before > 50e6 and recipe.peak_memory() >= block.nbytes


def test_top_share():
    u = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0)))[0]
    assert recipe.top_share(u, 3) == pytest.approx(3 / 9, abs=1e-5)
    assert recipe.top_share(u[:, :1] @ u[:1], 1) == pytest.approx(1)


# --- what it stored ---


@pytest.fixture(scope="module")
def stored():
    return stored_results("parameter_efficient")


def test_the_stored_results_are_whole(stored):
    assert stored["made_by"]["command"].startswith("python -m aigc_course.recipes.parameter_efficient --seeds 0 1 2")
    wanted = [(method, seed) for method in recipe.FIRST_RATE for seed in (0, 1, 2)]
    assert [(row["method"], row["seed"]) for row in stored["seeds"]] == wanted
    assert [(row["method"], row["seed"]) for row in stored["cost"]] == wanted


def test_the_stored_results_are_of_the_weights_that_ship(stored):
    assert stored["weights"] == recipe.published_sum("models/gpt2_mini/model.safetensors")


def test_rates_were_chosen_on_the_validation_part_with_the_first_seed(stored):
    for method in recipe.FIRST_RATE:
        tried = {row["rate"]: row["validation"] or math.inf for row in stored["search"] if row["method"] == method}
        best = min(tried, key=tried.get)
        assert {row["rate"] for row in stored["seeds"] if row["method"] == method} == {best}
        place = recipe.RATES.index(best)
        assert {recipe.RATES[i] for i in (place - 1, place + 1) if 0 <= i < len(recipe.RATES)} <= set(tried)


def test_stored_budgets_are_equal(stored):
    numbers = {row["method"]: row["parameters"] for row in stored["seeds"]}
    assert max(numbers[m] for m in METHODS) < 1.01 * min(numbers[m] for m in METHODS)
    assert numbers["full"] == stored["parameters"] > 100 * numbers["LoRA"]


def test_every_method_learns_and_full_fine_tuning_learns_most(stored):
    tests = {m: [row["test"] for row in stored["seeds"] if row["method"] == m] for m in recipe.FIRST_RATE}
    assert all(max(values) < stored["before"]["test"] for values in tests.values())
    assert all(max(tests["full"]) < min(tests[method]) for method in METHODS)


def test_nats_per_token_takes_a_prefix(base, rows):
    model = prepared("prefix", base, rows)
    with torch.no_grad():
        assert nats_per_token(model, rows[:1]) == pytest.approx(model(**pad(rows[:1])).loss.item(), abs=1e-5)


def test_adalora_is_made_with_these_ranks(base):
    config = add_adalora(copy.deepcopy(base), 4, 8, steps=100).peft_config["default"]
    assert (config.init_r, config.target_r, config.tinit, config.total_step - config.tfinal) == (6, 4, 10, 60)
