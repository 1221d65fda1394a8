"""The GPT of lesson 12 against transformers' GPT-2, against itself in pieces, and on a GPU that is not there."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from aigc_course.models.gpt import (
    GPT,
    TRANSPOSED,
    GPTConfig,
    KVCache,
    Rotary,
    as_transformers,
    count_parameters,
    name_in_gpt2,
    rotate,
)
from benchmarks import charlm

VARIANTS = [
    dict(zip(("norm", "positions", "activation"), choice))
    for choice in itertools.product(("layer", "rms"), ("learned", "rotary"), ("gelu", "relu2"))
]
PLAIN, MODERN = VARIANTS[0], VARIANTS[-1]


def small(variant, scale=1.0, **changes):
    """A model whose every weight is random, output projections too, times `scale`."""
    torch.manual_seed(0)
    shape = dict(vocab_size=37, context_length=24, n_layer=3, n_head=4, n_embd=32) | changes
    model = GPT(GPTConfig(**shape, **variant)).eval()
    for parameter in model.parameters():
        parameter.data = (torch.randn_like(parameter) * 0.2 + (1.0 if parameter.ndim == 1 else 0.0)) * scale
    return model


def reference(config):
    torch.manual_seed(1)
    shape = GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.n_embd,
        n_layer=config.n_layer, n_head=config.n_head, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(shape).eval()
    for parameter in model.parameters():
        parameter.data = parameter + 0.2 * torch.randn_like(parameter)
    return model


def ids(batch=3, length=24, vocab_size=37):
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(2))


def test_our_weights_in_transformers_give_the_same_logits():
    ours = small(PLAIN)
    theirs = as_transformers(ours)  # it loads strictly: every weight has its place
    with torch.no_grad():
        assert_close(ours(ids()), theirs(ids()).logits, atol=1e-4, rtol=0)


def test_only_the_default_variant_goes_into_transformers():
    for variant in VARIANTS[1:]:
        with pytest.raises(ValueError, match="GPT-2 has layer norm, learned positions and gelu"):
            as_transformers(small(variant))


def test_weights_of_transformers_in_ours_give_the_same_logits():
    ours = small(PLAIN)
    theirs = reference(ours.config)
    given = theirs.state_dict()
    weights = {name: given[name_in_gpt2(name)] for name in ours.state_dict()}
    ours.load_state_dict({n: v.T if name_in_gpt2(n).endswith(TRANSPOSED) else v for n, v in weights.items()})
    left = torch.ones(3, 24, dtype=torch.long)
    left[0, :5] = 0
    with torch.no_grad():
        assert_close(ours(ids()), theirs(ids()).logits, atol=1e-4, rtol=0)
        positions = (left.cumsum(1) - 1).clamp(min=0)
        padded = theirs(ids(), attention_mask=left, position_ids=positions).logits
        assert_close(ours(ids(), attention_mask=left)[left == 1], padded[left == 1], atol=1e-4, rtol=0)


def test_gradients_equal_those_of_transformers():
    ours = small(PLAIN)
    theirs = reference(ours.config)
    weights = {name_in_gpt2(name): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict({n: v.T if n.endswith(TRANSPOSED) else v for n, v in weights.items()})
    theirs(ids(), labels=ids()).loss.backward()  # transformers shifts the labels itself
    F.cross_entropy(ours(ids())[:, :-1].flatten(0, 1), ids()[:, 1:].flatten()).backward()
    for name, parameter in ours.named_parameters():
        wanted = theirs.get_parameter(name_in_gpt2(name)).grad
        assert_close(parameter.grad, wanted.T if name_in_gpt2(name).endswith(TRANSPOSED) else wanted)


def test_initial_weights_follow_gpt2():
    torch.manual_seed(0)
    model = GPT(GPTConfig(1000, 64, 8, 4, 128))
    deviations = {name: p.std().item() for name, p in model.named_parameters() if p.ndim == 2}
    for name, found in deviations.items():
        wanted = 0.02 / 16**0.5 if name.endswith("project.weight") else 0.02
        assert found == pytest.approx(wanted, rel=0.05), name
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))
    modern = GPT(GPTConfig(1000, 64, 8, 4, 128, **MODERN))
    assert all((p == 0).all() for name, p in modern.named_parameters() if name.endswith("project.weight"))
    assert not any(name.endswith("bias") for name, _ in modern.named_parameters())


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_later_token_changes_no_earlier_logit(variant, scale):
    model = small(variant, scale)
    with torch.no_grad():
        before = model(ids())
        assert before.isfinite().all()
        for t in (0, 7, 22):
            other = ids().clone()
            other[:, t + 1 :] = (other[:, t + 1 :] + 1) % 37
            after = model(other)
            assert torch.equal(after[:, : t + 1], before[:, : t + 1])
            assert not torch.equal(after[:, t + 1], before[:, t + 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_earlier_token_is_seen(variant):
    model = small(variant)
    with torch.no_grad():
        before = model(ids())[:, -1]
        for t in range(24):
            other = ids().clone()
            other[:, t] = (other[:, t] + 1) % 37
            assert not torch.allclose(model(other)[:, -1], before), t


@pytest.mark.parametrize("variant", VARIANTS)
def test_left_padding_leaves_each_prompt_its_logits(variant):
    model = small(variant)
    prompts = [ids()[0, :9], ids()[1, :4], ids()[2, :1]]
    batch, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        batch[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    with torch.no_grad():
        together = model(batch, attention_mask=mask)
        assert together.isfinite().all()
        for row, prompt in enumerate(prompts):
            assert_close(together[row, -len(prompt) :], model(prompt[None])[0])
        assert_close(model(batch, attention_mask=torch.ones_like(mask)), model(batch))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_with_a_cache_the_logits_are_the_same(variant, padded):
    """The prompt at once, then two tokens, then one by one."""
    model = small(variant)
    mask = torch.ones(3, 24, dtype=torch.long)
    mask[0, :3], mask[2, :6] = (0, 0) if padded else (1, 1)
    with torch.no_grad():
        whole = model(ids(), attention_mask=mask if padded else None)
        cache = KVCache(model, batch_size=3)
        for begin, end in [(0, 8), (8, 10), *((t, t + 1) for t in range(10, 24))]:
            part = model(ids()[:, begin:end], attention_mask=mask[:, :end] if padded else None, cache=cache)
            real = mask[:, begin:end] == 1
            assert_close(part[real], whole[:, begin:end][real])
        assert cache.length == 24


def test_a_cache_keeps_the_rows_that_it_is_told_to():
    model, rows = small(MODERN), torch.tensor([2, 0, 2])
    with torch.no_grad():
        cache = KVCache(model, batch_size=3, capacity=9)
        model(ids()[:, :8], cache=cache)
        cache.select(rows)
        assert_close(model(ids()[rows, 8:9], cache=cache), model(ids()[rows, :9])[:, -1:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_count_by_formula(variant):
    for changes in ({}, dict(vocab_size=65, context_length=64, n_layer=2, n_head=2, n_embd=48)):
        model = small(variant, **changes)
        assert count_parameters(model.config) == sum(p.numel() for p in model.parameters())
    assert count_parameters(GPTConfig(50257, 1024, 12, 12, 768)) == 124_439_808  # GPT-2, as published


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant):
    model = small(variant)
    F.cross_entropy(model(ids()).flatten(0, 1), ids().flatten()).backward()
    for name, parameter in model.named_parameters():
        rows = parameter.grad.flatten(1).any(1) if name == "position_embedding.weight" else parameter.grad.any()
        assert rows.all(), name


def test_a_modern_model_starts_uniform_and_learns_from_there():
    """Output projections of zero: each block starts as the identity, and still learns from the first step on."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(37, 24, 3, 4, 32, **MODERN))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(ids()[:, :-1]).flatten(0, 1), ids()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.log(torch.tensor(37.0)).item(), abs=0.1)
    assert losses[-1] < 0.3


def test_rotary_positions_are_relative():
    """Repeating a token: attention sees distances only, so the first layer's scores do not depend on the place."""
    rotary = Rotary(GPTConfig(37, 24, 3, 4, 32, **MODERN))
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(3))
    at = lambda x, place: rotate(x, rotary(torch.tensor([place])))
    scores = [(at(q, place + 5) * at(k, place)).sum() for place in range(18)]
    assert_close(torch.stack(scores), scores[0].expand(18))
    assert_close(at(q, 0), q)


@pytest.mark.parametrize("variant", [PLAIN, MODERN])
def test_training_and_sampling_on_a_gpu_that_is_not_there(variant):
    """FakeTensorMode knows shapes and devices only; it raises where a tensor was made on the wrong device.

    It cannot go backward without a GPU.
    """
    with FakeTensorMode(), torch.device("cuda"):
        model = GPT(GPTConfig(37, 24, 2, 4, 32, dropout=0.1, **variant))
        batch, mask = torch.zeros(3, 9, dtype=torch.long), torch.ones(3, 9, dtype=torch.long)
        loss = F.cross_entropy(model(batch).flatten(0, 1), batch.flatten())
        assert loss.device.type == "cuda" and loss.requires_grad
        with torch.no_grad():
            cache = KVCache(model, batch_size=3)
            hidden = model.hidden(batch, attention_mask=mask, cache=cache)
            for t in range(3):
                token = model.head(hidden[:, -1]).argmax(-1, keepdim=True)
                mask = torch.ones(3, 10 + t, dtype=torch.long)
                hidden = model.hidden(token, attention_mask=mask, cache=cache)
            model(torch.zeros(3, 2, dtype=torch.long), cache=cache)  # several tokens behind a cache
        assert hidden.shape == (3, 1, 32) and hidden.device.type == "cuda"


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="n_embd 30 is not divisible by n_head 4"):
        GPTConfig(37, 24, 3, 4, 30)
    with pytest.raises(ValueError, match="odd"):
        GPTConfig(37, 24, 3, 4, 12, positions="rotary")
    for option in ("norm", "positions", "activation"):
        with pytest.raises(ValueError, match=f"{option} must be one of .* not 'swish'"):
            GPTConfig(37, 24, 3, 4, 32, **{option: "swish"})
    for variant in (PLAIN, MODERN):
        model = small(variant)
        with pytest.raises(ValueError, match="25 tokens are more than context_length 24"):
            model(ids(1, 25))
        with torch.no_grad(), pytest.raises(ValueError, match="9 tokens are more than the cache's capacity 8"):
            cache = KVCache(model, 1, capacity=8)
            model(ids(1, 8), cache=cache)
            model(ids(1, 1), cache=cache)
        with pytest.raises(ValueError, match="attention_mask covers 5 tokens, the sequence has 8"):
            model(ids(1, 8), attention_mask=torch.ones(1, 5))


def test_the_character_benchmark_scores_every_window_once():
    ids = torch.arange(2 * 64 + 50) % 37
    rows = charlm.windows(ids)
    assert rows.shape == (2, 65) and torch.equal(rows[1], ids[64:129])
    assert charlm.windows(ids[:129]).shape == (2, 65) and charlm.windows(ids[:128]).shape == (1, 65)
    model = small(MODERN, context_length=64)
    with torch.no_grad():
        logits = model(torch.stack((ids[:64], ids[64:128]))).flatten(0, 1)
    assert charlm.validation_loss(model, ids) == pytest.approx(F.cross_entropy(logits, ids[1:129]).item(), rel=1e-5)


def test_the_character_benchmark_keeps_to_its_parameters():
    for vocab_size in (2, 65, 113, 200, 6_613):
        config = charlm.modern_config(vocab_size)
        assert count_parameters(config) <= 810_000 and config.context_length == 64
    assert charlm.modern_config(65).n_embd == 128
    with pytest.raises(ValueError, match="too many"):
        charlm.modern_config(60_000)
