"""Attention as lesson 11 defines it: the lesson's own cells are run, and what they define is tested."""

import math

import nbformat
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from aigc_course.paths import NOTEBOOKS

CELLS = (
    "loop-attention", "attention", "mask-functions", "attention-backward", "split-heads", "multi-head-attention",
    "sinusoidal", "rotary", "noise", "look-up-model",
)  # fmt: skip


@pytest.fixture(scope="module")
def lesson():
    """The names that the lesson's defining cells define."""
    notebook = nbformat.read(NOTEBOOKS / "en" / "11_attention.ipynb", as_version=4)
    source = {cell.id: cell.source for cell in notebook.cells}
    names = {}
    exec("import math, string\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn", names)
    for cell in CELLS:
        exec(source[cell], names)
    return names


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


def scaled_up(module, size):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(size)
    return module


@pytest.mark.parametrize("size", [1, 1000])
def test_no_output_of_attention_depends_on_a_later_token(lesson, g, size):
    q, k, v = (torch.randn(2, 3, 7, 4, generator=g) for _ in range(3))
    before, weights = lesson["attention"](size * q, size * k, v, lesson["causal_mask"](7))
    assert before.isfinite().all()
    assert (weights.triu(1) == 0).all()
    for t in range(6):
        k2, v2 = k.clone(), v.clone()
        k2[..., t + 1, :], v2[..., t + 1, :] = 9.0, -9.0
        after = lesson["attention"](size * q, size * k2, v2, lesson["causal_mask"](7))[0]
        assert torch.equal(before[..., : t + 1, :], after[..., : t + 1, :])
        if size == 1:  # a thousandfold, a query may look at one token only, and it may be another
            assert not torch.equal(before[..., t + 1 :, :], after[..., t + 1 :, :])


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal", "none"])
@pytest.mark.parametrize("size", [1, 1000])
def test_no_logit_of_the_model_depends_on_a_later_token(lesson, g, positions, size):
    torch.manual_seed(0)
    model = scaled_up(lesson["LookUpModel"](positions=positions), size)
    ids = torch.randint(64, (2, 12), generator=g)
    with torch.no_grad():
        before = model(ids)
        assert before.isfinite().all()
        for t in range(11):
            changed = ids.clone()
            changed[:, t + 1] = (ids[:, t + 1] + 1) % 64
            after = model(changed)
            assert torch.equal(before[:, : t + 1], after[:, : t + 1])
            assert not torch.equal(before[:, t + 1], after[:, t + 1])


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_by_hand_equal_autograd(lesson, g, masked):
    q, k, v = (torch.randn(2, 3, 6, 5, generator=g, dtype=torch.float64).requires_grad_() for _ in range(3))
    allowed = lesson["causal_mask"](6) & lesson["padding_mask"](torch.tensor([6, 4]), 6) if masked else None
    d_out = torch.randn(2, 3, 6, 5, generator=g, dtype=torch.float64)
    output, weights = lesson["attention"](q, k, v, allowed)
    expected = torch.autograd.grad(output, (q, k, v), d_out)
    for ours, theirs in zip(lesson["attention_backward"](d_out, q, k, v, weights.detach()), expected):
        assert_close(ours, theirs)
    assert torch.autograd.gradcheck(lambda *x: lesson["attention"](*x, allowed)[0], (q, k, v))


@pytest.mark.parametrize("heads, T, S, d", [(1, 1, 1, 2), (3, 5, 9, 4), (2, 8, 3, 16)])
def test_equals_the_library_with_any_mask(lesson, g, heads, T, S, d):
    q, k, v = (torch.randn(2, heads, n, d, generator=g) for n in (T, S, S))
    allowed = torch.rand(2, 1, T, S, generator=g) < 0.6
    allowed[..., 0] = True
    for mask in (None, allowed):
        output, weights = lesson["attention"](q, k, v, mask)
        assert_close(output, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        assert_close(weights.sum(-1), torch.ones(2, heads, T))
    query = q[0, 0, 0].tolist()
    by_loop = lesson["look_up"](query, k[0, 0], v[0, 0])
    assert_close(lesson["attention"](q, k, v)[0][0, 0, 0], by_loop)


def test_layer_equals_nn_multihead_attention_and_padding_is_not_heard(lesson, g):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours = lesson["MultiHeadAttention"](12, 3)
    with torch.no_grad():
        for layer, weight, bias in zip(
            (ours.q, ours.k, ours.v), theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
        ):
            layer.weight.copy_(weight), layer.bias.copy_(bias)
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    x, lengths = torch.randn(2, 7, 12, generator=g), torch.tensor([7, 4])
    real = lesson["padding_mask"](lengths, 7)
    causal = lesson["causal_mask"](7)
    expected = theirs(x, x, x, attn_mask=~causal, key_padding_mask=~real[:, 0, 0])[0]
    assert_close(ours(x, causal & real), expected)
    assert_close(ours(x, real)[1, :4], ours(x[1:, :4])[0])  # a text alone gets what it gets in company


def test_heads_are_split_and_merged_without_mixing_tokens(lesson):
    x = torch.arange(2 * 5 * 12).view(2, 5, 12)
    split = lesson["split_heads"](x, 3)
    assert split.shape == (2, 3, 5, 4)
    assert torch.equal(split[1, 2, 3], x[1, 3, 8:])
    assert torch.equal(lesson["merge_heads"](split), x)


@pytest.mark.parametrize("d", [2, 6, 32])
def test_rotary_scores_know_the_distance_only(lesson, g, d):
    q, k = torch.randn(2, d, generator=g, dtype=torch.float64)
    cos, sin = (x.double() for x in lesson["rotary_turn"](30, d))
    turned_q, turned_k = (lesson["rotate"](x.expand(30, d), (cos, sin)) for x in (q, k))
    scores = turned_q @ turned_k.T
    for n in range(-29, 30):
        diagonal = scores.diagonal(n)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)
    assert_close(turned_q.norm(dim=1), q.norm().expand(30), atol=1e-5, rtol=0)
    assert_close(turned_q[0], q)
    unit = torch.zeros(d, dtype=torch.float64)
    unit[0] = 1.0  # place 1 turns the first pair by one radian, towards its second entry
    first = lesson["rotate"](unit.expand(2, d), (cos[:2], sin[:2]))[1]
    assert_close(first[[0, d // 2]], torch.tensor([math.cos(1), math.sin(1)], dtype=torch.float64), atol=1e-6, rtol=0)


def test_sinusoidal_positions_follow_the_paper(lesson):
    table = lesson["sinusoidal_positions"](50, 8)
    for t in (0, 1, 17, 49):
        for i in range(4):
            angle = t / 10000 ** (2 * i / 8)
            expected = torch.tensor([math.sin(angle), math.cos(angle)])
            assert_close(table[t, 2 * i : 2 * i + 2], expected, atol=1e-5, rtol=0)


def test_noise_repeats_a_block_of_different_symbols(lesson, g):
    ids, period = lesson["noise"](40, g)
    assert ids.shape == (40, lesson["LENGTH"] + 1) and period.min() >= 8 and period.max() <= 32
    for line, p in zip(ids, period[:, 0].tolist()):
        assert len(set(line[:p].tolist())) == p
        assert torch.equal(line[p:], line[:-p])


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal", "none"])
def test_the_model_makes_no_tensor_on_the_wrong_device(lesson, positions):
    """No GPU is needed: fake tensors know their device, and mixing two devices raises."""
    with FakeTensorMode():
        with torch.device("cuda"):
            model = lesson["LookUpModel"](positions=positions)
            ids = torch.zeros(2, 12, dtype=torch.long)
        logits = model(ids)  # outside: what the forward pass makes must find its device by itself
    assert logits.device.type == "cuda" and logits.shape == (2, 12, 64)
