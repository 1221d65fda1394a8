"""Lesson 13's decoding against transformers' logits processors and generate, and against trying everything."""

import itertools
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close
from transformers.generation import logits_process

from aigc_course.decoding import (
    apply_temperature,
    beam_search,
    generate,
    left_pad,
    min_p_filter,
    next_token,
    repetition_penalty,
    store_for_single_tokens,
    top_k_filter,
    top_p_filter,
)
from aigc_course.models.gpt import GPT, GPTConfig, KVCache, as_transformers

MODERN = dict(norm="rms", positions="rotary", activation="relu2")
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6], [5, 3, 5, 8, 9, 7, 9]]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(**changes):
    """A model whose every weight is random, so that its greedy choices differ from place to place."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**dict(vocab_size=37, context_length=32, n_layer=2, n_head=4, n_embd=32) | changes)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_logits(seed):
    return 3 * torch.randn(5, 41, generator=seeded(seed))


@pytest.mark.parametrize(
    "ours, theirs, values",
    [
        (apply_temperature, logits_process.TemperatureLogitsWarper, [0.1, 0.7, 1.0, 3.0]),
        (top_k_filter, logits_process.TopKLogitsWarper, [1, 2, 40, 41, 42, 1000]),
        (top_p_filter, logits_process.TopPLogitsWarper, [0.0, 0.1, 0.5, 0.95, 0.999, 1.0]),
        (min_p_filter, logits_process.MinPLogitsWarper, [0.0, 0.01, 0.1, 0.9, 1.0]),
    ],
)
def test_filters_equal_those_of_transformers(ours, theirs, values):
    for value, seed in itertools.product(values, range(20)):
        logits = random_logits(seed)
        before = logits.clone()
        assert torch.equal(ours(logits, value), theirs(value)(None, logits))
        assert torch.equal(logits, before)
        flat = logits.round()  # ties everywhere; which of two equal tokens the nucleus keeps is a matter of taste
        kept, wanted = ours(flat, value), theirs(value)(None, flat)
        assert torch.equal(kept.sort().values, wanted.sort().values)
        some = logits.masked_fill(logits < 0, -math.inf)  # what another filter leaves
        assert torch.equal(ours(some, value), theirs(value)(None, some))


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 5.0])
def test_the_repetition_penalty_equals_that_of_transformers(penalty):
    for seed in range(20):
        logits, ids = random_logits(seed), torch.randint(41, (5, 9), generator=seeded(seed))
        wanted = logits_process.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
        assert torch.equal(repetition_penalty(logits, ids, None, penalty), wanted)
        padded = torch.nn.functional.pad(ids, (3, 0))  # padding is token 0 and was not read
        mask = torch.nn.functional.pad(torch.ones_like(ids), (3, 0))
        assert torch.equal(repetition_penalty(logits, padded, mask, penalty), wanted)


def test_filters_at_their_limits():
    logits = random_logits(0)
    top = logits == logits.amax(-1, keepdim=True)
    for one in (top_k_filter(logits, 1), top_p_filter(logits, 0.0), min_p_filter(logits, 1.0)):
        assert torch.equal(one.isfinite(), top)
    for everything in (top_k_filter(logits, 10**6), top_p_filter(logits, 1.0), min_p_filter(logits, 0.0)):
        assert torch.equal(everything, logits)
    equal = torch.zeros(2, 10)
    assert top_k_filter(equal, 3).isfinite().all() and min_p_filter(equal, 1.0).isfinite().all()
    assert (top_p_filter(equal, 0.25).isfinite().sum(-1) == 3).all()
    assert (top_p_filter(equal, 0.0).isfinite().sum(-1) == 1).all()


def test_by_hand():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    kept = lambda filtered: filtered.isfinite().sum().item()
    assert [kept(top_p_filter(logits, p)) for p in (0.3, 0.5, 0.65, 0.75, 0.95)] == [1, 2, 2, 3, 4]
    assert [kept(min_p_filter(logits, p)) for p in (0.2, 0.3, 0.6, 0.8)] == [4, 3, 2, 1]
    found = repetition_penalty(torch.tensor([[2.0, -2.0, 1.0, -1.0]]), torch.tensor([[0, 1, 1]]), None, 2.0)
    assert found.tolist() == [[1.0, -4.0, 1.0, -1.0]]


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(20_000, 1)
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    share = lambda **choice: next_token(logits, ids, generator=seeded(), **choice).bincount(minlength=4) / len(logits)
    assert_close(share(), torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.015, rtol=0)
    assert_close(share(top_k=2), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015, rtol=0)
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert_close(share(temperature=0.5), squared / squared.sum(), atol=0.015, rtol=0)
    # with temperature 0.5 the first token has 0.685, so that the nucleus of 0.65 is this one alone
    assert share(temperature=0.5, top_p=0.65)[0] == 1 and share(temperature=0)[0] == 1


@pytest.mark.parametrize("variant", [{}, MODERN])
@pytest.mark.parametrize("choice", [dict(temperature=0), dict(), dict(temperature=0, penalty=1.3), dict(top_p=0.9)])
def test_with_and_without_a_cache_the_tokens_are_the_same(variant, choice):
    model = small(**variant)
    for prompts in (PROMPTS, PROMPTS[:1]):
        cached, uncached = (
            generate(model, prompts, 20, use_cache=use_cache, generator=seeded(), **choice)
            for use_cache in (True, False)
        )
        assert cached == uncached and all(len(row) == 20 for row in cached)


@pytest.mark.parametrize("variant", [{}, MODERN])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_prompt_among_others_goes_on_as_it_does_alone(variant, penalty):
    model = small(**variant)
    together = generate(model, PROMPTS, 20, temperature=0, penalty=penalty)
    assert together == [generate(model, [p], 20, temperature=0, penalty=penalty)[0] for p in PROMPTS]
    assert len({tuple(row) for row in together}) > 1


def test_a_seed_decides_what_is_drawn():
    model = small()
    run = lambda seed: generate(model, PROMPTS, 20, generator=seeded(seed))
    assert run(0) == run(0) != run(1)


@pytest.mark.parametrize("choice", [dict(temperature=0), dict()])
def test_a_row_stops_at_its_end_token(choice):
    model = small()
    run = lambda end: generate(model, PROMPTS, 20, end=end, generator=seeded(), **choice)
    whole = run(None)
    for end in {whole[0][3], whole[1][5], whole[2][0]}:
        wanted = [row[: row.index(end) + 1] if end in row else row for row in whole]
        assert run(end) == wanted and any(len(row) < 20 for row in wanted)


def test_decoding_stops_when_every_row_has_ended():
    model, calls = small(), []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    first = generate(model, [[1]], 1, temperature=0)[0][0]
    assert generate(model, [[1]], 20, temperature=0, end=first) == [[first]] and len(calls) == 2


def test_greedy_equals_transformers():
    model = small()
    theirs = as_transformers(model)
    ids, mask = left_pad(PROMPTS)
    for penalty in (1.0, 1.3):
        for prompt in PROMPTS:
            wanted = theirs.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=20, do_sample=False, repetition_penalty=penalty,
            )  # fmt: skip
            assert generate(model, [prompt], 20, temperature=0, penalty=penalty)[0] == wanted[0, len(prompt) :].tolist()
    wanted = theirs.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False)
    assert generate(model, PROMPTS, 20, temperature=0) == wanted[:, ids.shape[1] :].tolist()


def log_p(model, prompt, tokens):
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens]))[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(tokens)), tokens].sum().item()


def test_one_beam_is_greedy():
    model = small()
    for prompt in PROMPTS:
        greedy = generate(model, [prompt], 20, temperature=0)[0]
        tokens, score = beam_search(model, prompt, 20, beams=1)
        assert tokens == greedy and score == pytest.approx(log_p(model, prompt, greedy) / 20, rel=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("end", [None, 2])
def test_with_beams_enough_the_best_of_all_sequences_is_found(end, length_penalty):
    model, steps = small(vocab_size=5), 4
    sequences = {tuple(s[: s.index(end) + 1]) if end in s else s for s in itertools.product(range(5), repeat=steps)}
    for prompt in ([1], [4, 0, 3]):
        scores = {s: log_p(model, prompt, list(s)) / len(s) ** length_penalty for s in sequences}
        tokens, score = beam_search(model, prompt, steps, beams=5**steps, length_penalty=length_penalty, end=end)
        assert score == pytest.approx(max(scores.values()), abs=1e-4)
        assert tuple(tokens) == max(scores, key=scores.get)


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_beam_search_equals_transformers(beams, length_penalty):
    model = small()
    theirs = as_transformers(model)
    for prompt, end in itertools.product(PROMPTS, (None, 7, 30)):
        ids = torch.tensor([prompt])
        found = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, num_beams=beams, do_sample=False,
            length_penalty=length_penalty, early_stopping="never", eos_token_id=end,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        wanted = found.sequences[0, len(prompt) :].tolist()
        tokens, score = beam_search(model, prompt, 12, beams=beams, length_penalty=length_penalty, end=end)
        assert tokens == (wanted[: wanted.index(end) + 1] if end in wanted else wanted)
        assert score == pytest.approx(found.sequences_scores.item(), abs=1e-4)


def test_the_order_in_memory_changes_no_token():
    model = small()
    wanted = generate(model, PROMPTS, 20, temperature=0)
    numbers = {name: value.clone() for name, value in model.state_dict().items()}
    assert generate(store_for_single_tokens(model), PROMPTS, 20, temperature=0) == wanted
    assert model.blocks[0].mlp.widen.weight.T.is_contiguous()
    assert all(torch.equal(value, numbers[name]) for name, value in model.state_dict().items())


def test_a_model_in_another_order_in_memory_is_saved_and_loaded(tmp_path):
    model, prompt = small(), PROMPTS[:1]
    wanted = generate(model, prompt, 20, temperature=0)
    weights = {
        name: value for name, value in store_for_single_tokens(model).state_dict().items() if name != "head.weight"
    }
    with pytest.raises(ValueError, match="contiguous"):
        save_file(weights, tmp_path / "refused.safetensors")
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "model.safetensors")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    kept = load_file(tmp_path / "model.safetensors")
    for fresh in (small(), store_for_single_tokens(small())):
        for parameter in fresh.parameters():
            torch.nn.init.zeros_(parameter)
        fresh.load_state_dict(kept | {"head.weight": kept["token_embedding.weight"]})
        assert generate(fresh, prompt, 20, temperature=0) == wanted
        fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        assert generate(fresh, prompt, 20, temperature=0) == wanted


@pytest.mark.parametrize("variant", [{}, MODERN])
def test_a_step_on_a_gpu_that_is_not_there(variant):
    """FakeTensorMode knows shapes and devices only; it raises where a tensor was made on the wrong device."""
    generator = seeded()
    with FakeTensorMode(), torch.device("cuda"), torch.inference_mode():
        model = GPT(GPTConfig(37, 32, 2, 4, 32, **variant)).eval()
        ids, mask = left_pad(PROMPTS, "cuda")
        cache = KVCache(model, len(ids), 20)
        for choice in (dict(temperature=0), dict(top_k=5, top_p=0.9, min_p=0.1, penalty=1.2, generator=generator)):
            logits = model.head(model.hidden(ids[:, cache.length :], attention_mask=mask, cache=cache)[:, -1])
            token = next_token(logits, ids, mask, **choice)
            assert token.shape == (4,) and token.device.type == "cuda" and token.dtype == torch.long
            ids, mask = torch.cat((ids, token[:, None]), 1), torch.nn.functional.pad(mask, (0, 1), value=1)


def test_the_number_of_threads_is_put_back():
    torch.set_num_threads(2)
    model, inside = small(), []
    model.head.register_forward_hook(lambda *_: inside.append(torch.get_num_threads()))
    generate(model, [[1]], 2)
    generate(model, [[1], [2]], 2)
    with pytest.raises(IndexError):
        generate(model, [[37]], 2)  # no such token
    assert inside == [1, 1, 2, 2] and torch.get_num_threads() == 2


def test_the_last_token_needs_no_room():
    model = small()
    assert len(generate(model, [[1, 2]], 31, temperature=0)[0]) == 31
    assert len(beam_search(model, [1, 2], 31, beams=2)[0]) == 31
    assert len(generate(model, [list(range(32))], 1)[0]) == 1


def test_mistakes_are_named():
    model, logits = small(), random_logits(0)
    ids = torch.zeros(5, 1, dtype=torch.long)
    for call, message in [
        (lambda: top_k_filter(logits, 0), "top_k must be at least 1, not 0"),
        (lambda: top_p_filter(logits, 1.1), r"top_p must lie in \[0, 1\], not 1.1"),
        (lambda: min_p_filter(logits, -0.1), r"min_p must lie in \[0, 1\], not -0.1"),
        (lambda: apply_temperature(logits, 0), "temperature must be positive, not 0"),
        (lambda: apply_temperature(logits, -1), "temperature must be positive, not -1"),
        (lambda: repetition_penalty(logits, ids, None, 0), "penalty must be positive, not 0"),
        (lambda: generate(model, PROMPTS, 5, temperature=-1), "temperature must not be negative: -1"),
        (lambda: generate(model, PROMPTS, 5, top_k=0), "top_k must be at least 1, not 0"),
        (lambda: generate(model, [[1], []], 5), "an empty one"),
        (lambda: generate(model, [], 5), "no prompt"),
        (lambda: beam_search(model, [], 5, beams=2), "an empty one"),
        (lambda: generate(model, [[1]], 0), "max_new_tokens must be at least 1, not 0"),
        (lambda: generate(model, [[1] * 33], 1), "33 tokens and 1 new ones: 33 to read, context_length is 32"),
        (lambda: generate(model, [[1]], 33), "33 to read, context_length is 32"),
        (lambda: beam_search(model, [1] * 30, 4, beams=2), "33 to read, context_length is 32"),
        (lambda: beam_search(model, [1], 4, beams=0), "beams must be at least 1, not 0"),
        (lambda: generate(small(dropout=0.1).train(), [[1]], 4), "call model.eval"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
