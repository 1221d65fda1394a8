"""The language models of lesson 10: counted n-grams, a network on a window of tokens, an LSTM."""

import torch
import torch.nn.functional as F
from torch import nn


def ngram_keys(reviews, n, vocab_size):
    """Each token with the n - 1 before it as one whole number, int64 `(N,)`; before a review stand end tokens."""
    digits = vocab_size ** torch.arange(n - 1, -1, -1)
    padded = [F.pad(ids, (n - 1, 0), value=vocab_size - 1) for ids in reviews]
    return torch.cat([ids.unfold(0, n, 1) @ digits for ids in padded])  # (T, n) @ (n,)


class NGram:
    """How often each n-gram of `reviews` (a list of int64 tensors) occurs, and each context of n - 1 tokens."""

    def __init__(self, reviews, n, vocab_size):
        self.n, self.vocab_size = n, vocab_size
        self.keys, self.counts = ngram_keys(reviews, n, vocab_size).unique(return_counts=True)
        self.contexts, which = (self.keys // vocab_size).unique(return_inverse=True)
        self.totals = torch.zeros_like(self.contexts).index_add(0, which, self.counts)

    def look_up(self, keys):
        """How often each n-gram and its context occurred in training; keys `(N,)`, results `(N,)` and `(N,)`."""
        i = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        j = torch.searchsorted(self.contexts, keys // self.vocab_size).clamp(max=len(self.contexts) - 1)
        count = torch.where(self.keys[i] == keys, self.counts[i], 0)
        return count, torch.where(self.contexts[j] == keys // self.vocab_size, self.totals[j], 0)

    def probability(self, keys, k=0.0):
        """p(last token | those before), with k added to every count; 0 where an unseen context leaves it open."""
        count, total = self.look_up(keys)
        return (count + k).double() / (total + k * self.vocab_size).double().clamp(min=1e-9)


def fit_weights(probabilities, rounds=50):
    """Mixture weights `(K,)` of K models by expectation-maximisation; probabilities `(K, N)` of tokens not counted."""
    weights = torch.full((len(probabilities),), 1 / len(probabilities), dtype=torch.float64)
    for _ in range(rounds):
        share = weights[:, None] * probabilities  # (K, N)
        weights = (share / share.sum(0)).mean(1)
    return weights


def ngram_probabilities(tables, keys):
    """Row i: what the i-gram model gives to the last token of each n-gram; row 0 is the uniform. (n + 1, N)

    tables: an NGram for each of 1, ..., n; keys: n-grams as from `ngram_keys`, `(N,)`.
    Where a model has never seen the context, its row repeats the one before, so each row is of a distribution.
    """
    rows = [torch.full(keys.shape, 1 / tables[0].vocab_size, dtype=torch.float64)]
    for table in tables:
        count, total = table.look_up(keys % table.vocab_size**table.n)  # the last tokens of the n-gram
        rows.append(torch.where(total > 0, count.double() / total, rows[-1]))
    return torch.stack(rows)


class WindowMLP(nn.Module):
    """A network on the last `window` tokens (Bengio et al., 2003): input_ids `(B, T)` -> logits `(B, T, V)`."""

    def __init__(self, vocab_size, window=4, embedding_dim=64, hidden=192):
        super().__init__()
        self.window, self.end = window, vocab_size - 1
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.hidden = nn.Linear(window * embedding_dim, hidden)
        self.head = nn.Linear(hidden, vocab_size)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, input_ids):
        padded = F.pad(input_ids, (self.window - 1, 0), value=self.end)  # (B, T + window - 1)
        x = self.embedding(padded).unfold(1, self.window, 1).flatten(2)  # (B, T, embedding_dim * window)
        return self.head(torch.tanh(self.hidden(x)))


class LSTMModel(nn.Module):
    """A recurrent network that reads all tokens before: input_ids `(B, T)` -> logits `(B, T, V)`."""

    def __init__(self, vocab_size, embedding_dim=128, hidden=256):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden, batch_first=True)
        self.project = nn.Linear(hidden, embedding_dim)
        self.head = nn.Linear(embedding_dim, vocab_size)
        self.head.weight = self.embedding.weight  # tied: one table for both ends
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, input_ids):
        states, _ = self.lstm(self.embedding(input_ids))  # (B, T, hidden), from a state of zeros
        return self.head(self.project(states))
