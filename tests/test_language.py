"""Tokens, splits and scores of the language lessons against references, and lesson 10's models."""

import json
import math
import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close
from torchmetrics.text import Perplexity

from aigc_course.language import (
    BPE,
    PIECES,
    REVIEWS,
    encode_reviews,
    glue,
    review_splits,
    score,
    token_nll,
    train_bpe,
    training_rows,
)
from aigc_course.models.language import LSTMModel, NGram, WindowMLP, fit_weights, ngram_keys, ngram_probabilities

V = 50  # of the little models here; the end token is 49


@pytest.fixture(scope="module")
def reviews():
    """Made-up reviews of many lengths, one of them nothing but the end token."""
    g = torch.Generator().manual_seed(0)
    lengths = [0, 1, 2, 5, 17, 40, 41, 100]
    return [torch.cat((torch.randint(V - 1, (n,), generator=g), torch.tensor([V - 1]))) for n in lengths]


@pytest.fixture(scope="module")
def lstm():
    torch.manual_seed(0)
    return LSTMModel(V, embedding_dim=8, hidden=12).eval()


def price_alone(model, ids):
    """-log p of each token of one review, read alone and one beginning after the other."""
    inputs = torch.cat((ids[-1:], ids[:-1]))
    with torch.no_grad():
        rows = [model(inputs[None, : t + 1])[0, -1].log_softmax(0)[ids[t]] for t in range(len(ids))]
    return -torch.stack(rows)


def test_perplexity_does_not_depend_on_how_the_text_was_cut_into_batches(reviews, lstm):
    expected = torch.cat([price_alone(lstm, ids) for ids in reviews])
    texts = ["any text"] * len(reviews)
    for batch_tokens in (1, 30, 97, 100_000):
        found = token_nll(lstm, reviews, batch_tokens=batch_tokens)
        assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert_close(score(found, texts), score(expected, texts), rtol=1e-5, atol=0)
    backwards = token_nll(lstm, reviews[::-1], batch_tokens=64)
    assert_close(backwards.sum(), expected.sum(), rtol=1e-5, atol=0)


def test_the_mean_over_batches_does_depend_on_it(reviews, lstm):
    """The widely made mistake, so that the test above is known to be able to fail."""
    prices = token_nll(lstm, reviews)
    means = [torch.stack([part.mean().exp() for part in prices.split(size)]).mean() for size in (3, 50)]
    assert means[0] > means[1] * 1.002


def test_perplexity_equals_torchmetrics(reviews, lstm):
    reference = Perplexity()
    for ids in reviews:
        inputs = torch.cat((ids[-1:], ids[:-1]))
        reference.update(lstm(inputs[None]).detach(), ids[None])
    found = score(token_nll(lstm, reviews), ["x"] * len(reviews))["perplexity"]
    assert_close(found, reference.compute().item(), rtol=1e-4, atol=0)


class Listener(nn.Module):
    """Says how much it hears: at each place the logit of token 0 is the number of tokens read so far."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, input_ids):
        logits = torch.full((*input_ids.shape, 2), 0.0)
        logits[..., 0] = torch.arange(1.0, input_ids.shape[1] + 1)
        return logits + self.nothing


@pytest.mark.parametrize("context_length, stride", [(8, 4), (8, 1), (8, 8), (5, 3), (1, 1), (8, None), (1, None)])
def test_every_token_is_priced_once_with_enough_context(context_length, stride):
    reviews = [torch.zeros(n, dtype=torch.long) for n in (1, 3, 8, 9, 30)]
    prices = token_nll(Listener(), reviews, context_length=context_length, stride=stride, batch_tokens=20)
    heard = -(prices.double().exp() - 1).log()  # price = log(1 + exp(-heard))
    stride, place = stride or max(1, context_length // 2), 0
    assert len(prices) == sum(map(len, reviews))
    for ids in reviews:
        part = heard[place : place + len(ids)].round().int().tolist()
        first = min(len(ids), context_length)
        assert part[:first] == list(range(1, first + 1))
        assert all(context_length - stride < n <= context_length for n in part[first:])
        place += len(ids)


def test_scores_convert():
    texts = ["naïve", "电影 🎬", ""]
    nll = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = score(nll, texts)
    assert_close(found["perplexity"], math.exp(2.5))
    assert_close(found["bits per character"], 10 / math.log(2) / 9)
    assert_close(found["bits per byte"], 10 / math.log(2) / (6 + 6 + 1 + 4))


def test_splits_are_disjoint_and_stay_what_they_are():
    splits = review_splits()
    assert {name: len(texts) for name, texts in splits.items()} == REVIEWS
    letters = lambda text: "".join(c for c in text.lower() if "a" <= c <= "z")[:100]
    beginnings = Counter(letters(text) for texts in splits.values() for text in texts)
    assert max(beginnings.values()) == 1
    assert not any("<br" in text for texts in splits.values() for text in texts)
    # lesson 12 compares with figures stored from these very texts
    assert [sum(map(len, splits[name])) for name in ("train", "validation", "test")] == [2_572_403, 402_660, 503_274]


def library(texts, vocab_size):
    """The same tokenizer by the library `tokenizers`; each byte is handed over as one character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES.pattern), "isolated")
    alphabet = [chr(b) for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text.encode().decode("latin-1") for text in texts), trainer)
    return tokenizer


def many_ties(number):
    rng = random.Random(number)
    return ["".join(rng.choices("ab cé.\n", k=rng.randint(1, 40))) for _ in range(60)]


@pytest.mark.parametrize("texts", [many_ties(1), many_ties(2), "reviews"], ids=["ties", "more ties", "reviews"])
def test_bpe_equals_the_library(texts):
    size = 275
    if texts == "reviews":
        texts, size = review_splits()["train"][:150], 700
    merges, vocab = train_bpe(texts, size)
    reference = library(texts, size)
    found = [(a.decode("latin-1"), b.decode("latin-1")) for a, b in merges]
    assert found == [tuple(pair) for pair in json.loads(reference.to_str())["model"]["merges"]]
    assert reference.get_vocab() == {token.decode("latin-1"): i for token, i in vocab.items()}
    bpe = BPE(merges, vocab)
    for text in review_splits()["test"][:50] + many_ties(3):
        assert bpe.encode(text) == reference.encode(text.encode().decode("latin-1")).ids


def test_bpe_gives_every_text_back():
    bpe = BPE(*train_bpe(review_splits()["train"][:50], 400))
    rng = random.Random(0)
    strange = [
        "".join(chr(rng.choice((32, 10, 9, 65, 233, 0x7535, 0x1F3AC, 0xA0))) for _ in range(50)) for _ in range(20)
    ]
    for text in ["", " ", "\r\n\t", *strange]:
        ids = bpe.encode(text)
        assert bpe.decode([*ids, bpe.end]) == text and all(0 <= i < bpe.end for i in ids)
    assert encode_reviews(["", "a"], bpe)[0].tolist() == [bpe.end]


def test_glue_goes_from_the_left():
    a, b = b"a", b"b"
    assert glue((a, a, a), (a, a)) == (b"aa", a)
    assert glue((b, a, b, a, b), (a, b)) == (b, b"ab", b"ab")
    assert glue((a,), (a, a)) == (a,)


def test_training_rows_are_shifted_by_one(reviews):
    stream = torch.cat([torch.tensor([V - 1]), *reviews])
    for length in (1, 7, 64):
        inputs, labels = training_rows(reviews, length)
        n = (len(stream) - 1) // length
        assert inputs.shape == labels.shape == (n, length)
        assert torch.equal(inputs.flatten(), stream[: n * length])
        assert torch.equal(labels.flatten(), stream[1 : n * length + 1])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_ngrams_are_counted_as_a_dictionary_counts(reviews, n):
    table = NGram(reviews, n, V)
    padded = [[V - 1] * (n - 1) + ids.tolist() for ids in reviews]
    grams = Counter(tuple(ids[i : i + n]) for ids in padded for i in range(len(ids) - n + 1))
    contexts = Counter(gram[:-1] for gram in grams.elements())
    keys = ngram_keys([torch.arange(V), *reviews], n, V)  # the first of them mostly unseen
    tests = [[V - 1] * (n - 1) + list(range(V)), *padded]
    tests = [tuple(ids[i : i + n]) for ids in tests for i in range(len(ids) - n + 1)]
    count, total = table.look_up(keys)
    assert count.tolist() == [grams[gram] for gram in tests]
    assert total.tolist() == [contexts[gram[:-1]] for gram in tests]
    for k in (0.5, 2.0):
        every = NGram(reviews, n, V).probability(torch.arange(V), k)  # context 0 ... 0
        assert_close(every.sum().item(), 1.0)


def test_ngram_probabilities_are_those_of_the_longest_context_that_was_seen(reviews):
    reviews = reviews[:6]  # in which some tokens never occur
    tables = [NGram(reviews, n, V) for n in (1, 2, 3, 4)]
    padded = [[V - 1] * 3 + ids.tolist() for ids in reviews]
    grams = {n: Counter(tuple(r[i - n + 1 : i + 1]) for r in padded for i in range(3, len(r))) for n in (1, 2, 3, 4)}
    g, orders = torch.Generator().manual_seed(2), Counter()
    seen = [r[i : i + 3] for r in padded for i in range(len(r) - 3)]
    for context in seen[::20] + torch.randint(V, (40, 3), generator=g).tolist():
        first = ngram_keys([torch.tensor([*context, 0])], 4, V)[-1]
        rows = ngram_probabilities(tables, first + torch.arange(V))
        expected = [[1 / V] * V]
        for n in (1, 2, 3, 4):
            counts = [grams[n][(*context[4 - n :], v)] for v in range(V)]
            orders[n] += sum(counts) > 0
            expected.append([c / sum(counts) for c in counts] if sum(counts) else expected[-1])
        assert_close(rows, torch.tensor(expected, dtype=torch.float64))
        assert_close(rows.sum(1), torch.ones(5, dtype=torch.float64))
    assert orders[1] > orders[2] > orders[3] >= orders[4] > 0  # contexts of all kinds were tried


def test_weights_are_a_distribution_and_the_best_one():
    g = torch.Generator().manual_seed(1)
    p = torch.rand(2, 500, generator=g, dtype=torch.float64) ** 3
    weights = fit_weights(p, rounds=2000)
    assert_close(weights.sum().item(), 1.0)
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    losses = -(torch.stack((grid, 1 - grid), 1) @ p).log().mean(1)
    assert abs(grid[losses.argmin()] - weights[0]) < 0.002


def test_models_see_nothing_of_what_comes(reviews, lstm):
    torch.manual_seed(1)
    ids = torch.randint(V, (2, 30))
    for model in (lstm, WindowMLP(V, window=3, embedding_dim=4, hidden=6)):
        before = model(ids)
        for t in range(29):
            other = ids.clone()
            other[:, t + 1 :] = torch.randint(V, other[:, t + 1 :].shape)
            assert_close(model(other)[:, : t + 1], before[:, : t + 1])
    changed = ids.clone()
    changed[:, 10] = (ids[:, 10] + 1) % V
    differs = (model(changed) != before).any(-1).any(0)  # the window of 3: places 10, 11, 12
    assert differs.nonzero().flatten().tolist() == [10, 11, 12]


@pytest.mark.parametrize("kind", [LSTMModel, WindowMLP])
def test_forward_and_loss_on_a_gpu_that_is_not_there(kind):
    """cuDNN asks the driver, so it is off: then an LSTM is matrix products, which FakeTensorMode can follow."""
    with FakeTensorMode(), torch.device("cuda"), torch.backends.cudnn.flags(enabled=False):
        model = kind(2048)
        labels = torch.randint(2048, (16, 64))
        logits = model(labels)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        assert logits.shape == (16, 64, 2048) and loss.device.type == "cuda"
