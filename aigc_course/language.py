"""Reviews, tokens and scores that language models share, so that lesson 12 computes on what lesson 10 computed on."""

import math
import re
from collections import Counter, defaultdict
from functools import cache

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from aigc_course.data import movie_reviews, shuffled_parts

REVIEWS = {"test": 400, "validation": 300, "train": 2000}  # how many of each
VOCAB_SIZE = 2048  # 256 bytes, 1,791 merged tokens, and the end token
TOKENIZER_REVIEWS = 1000  # the tokenizer is trained on the first so many training reviews
PIECES = re.compile(r" ?[A-Za-z]+|'[a-z]+| ?[0-9]+| ?[^ \nA-Za-z0-9]+| +|\n")


@cache
def review_splits():
    """Distinct IMDB reviews as {"train": [...], "validation": [...], "test": [...]}, lists of texts; no text in two.

    Line breaks are "\\n". Two reviews that begin with the same 100 letters count as one.
    """
    distinct = {}
    for text, _ in movie_reviews("imdb"):
        text = re.sub(r"(<br />)+", "\n", text).strip()
        distinct.setdefault(re.sub("[^a-z]", "", text.lower())[:100], text)
    return shuffled_parts(distinct.values(), REVIEWS, seed=10)


def glue(parts, pair):
    """`parts`, a tuple of byte strings, with every neighbouring `pair` joined, from the left."""
    joined, i = [], 0
    while i < len(parts):
        step = 2 if parts[i : i + 2] == pair else 1
        joined.append(b"".join(parts[i : i + step]))
        i += step
    return tuple(joined)


def train_bpe(texts, vocab_size):
    """Byte-pair encoding: the merges in their order, and {byte string: token id} with `vocab_size` entries."""
    counts = Counter(piece.encode() for text in texts for piece in PIECES.findall(text))
    parts = {word: tuple(bytes([b]) for b in word) for word in counts}
    pairs, where = Counter(), defaultdict(set)  # how often each pair occurs, and in which words
    for word, n in counts.items():
        for pair in zip(parts[word], parts[word][1:]):
            pairs[pair] += n
            where[pair].add(word)
    merges, vocab = [], {bytes([b]): b for b in range(256)}
    while len(vocab) < vocab_size:
        most = max(pairs.values())
        best = min((p for p, n in pairs.items() if n == most), key=lambda p: (vocab[p[0]], vocab[p[1]]))
        merges.append(best)
        vocab.setdefault(best[0] + best[1], len(vocab))
        for word in where.pop(best):
            for pair in zip(parts[word], parts[word][1:]):
                pairs[pair] -= counts[word]
            parts[word] = glue(parts[word], best)
            for pair in zip(parts[word], parts[word][1:]):
                pairs[pair] += counts[word]
                where[pair].add(word)
        del pairs[best]
    return merges, vocab


class BPE:
    """Texts to token ids and back. The id after the last of `vocab` is `end`: here a text is over."""

    def __init__(self, merges, vocab):
        self.rank, self.vocab = {pair: i for i, pair in enumerate(merges)}, vocab
        self.bytes_of = {i: token for token, i in vocab.items()}
        self.end, self.known = len(vocab), {}

    def encode(self, text):
        """The token ids of `text`, a list without the end token."""
        return [i for piece in PIECES.findall(text) for i in self.encode_piece(piece)]

    def encode_piece(self, piece):
        """The token ids of one match of PIECES; each distinct piece is worked on once."""
        if piece not in self.known:
            parts = tuple(bytes([b]) for b in piece.encode())
            while len(parts) > 1:
                best = min(zip(parts, parts[1:]), key=lambda pair: self.rank.get(pair, math.inf))
                if best not in self.rank:
                    break
                parts = glue(parts, best)
            self.known[piece] = [self.vocab[part] for part in parts]
        return self.known[piece]

    def decode(self, ids):
        """The text of token ids; the end token is nothing, and bytes that are no UTF-8 become �."""
        return b"".join(self.bytes_of.get(int(i), b"") for i in ids).decode("utf-8", errors="replace")


@cache
def review_tokenizer():
    """The BPE of lesson 10, trained anew: some seconds, the same on every machine."""
    return BPE(*train_bpe(review_splits()["train"][:TOKENIZER_REVIEWS], VOCAB_SIZE - 1))


def encode_reviews(texts, tokenizer):
    """A list of int64 tensors `(T,)`, one a text; the last id of each is the end token."""
    return [torch.tensor(tokenizer.encode(text) + [tokenizer.end]) for text in texts]


def training_rows(reviews, length):
    """Inputs and labels, both int64 `(N, length)`: all reviews in one stream, cut into rows; labels are one ahead.

    The stream begins with an end token, so that the first token of a review always follows one.
    """
    stream = torch.cat([reviews[0][-1:], *reviews])
    n = (len(stream) - 1) // length
    return stream[: n * length].reshape(n, length), stream[1 : n * length + 1].reshape(n, length)


@torch.no_grad()
def token_nll(model, reviews, context_length=None, stride=None, batch_tokens=16_384):
    """-log p in nats of every token of `reviews`, end tokens included: float32 `(N,)` on the CPU, in their order.

    model: a causal module in evaluation mode, input_ids `(B, T)` -> logits `(B, T, V)`; it reads an end token before
    the first token of a review. context_length: the longest T that it can read; a longer review is read in windows
    that move on by `stride` tokens (default: half), so that every token is priced once, and from the second window on
    with at least context_length - stride tokens before it. None: whole reviews. batch_tokens changes no result.
    """
    device, windows, place = next(model.parameters()).device, [], 0
    for ids in reviews:
        inputs, done = torch.cat((ids[-1:], ids[:-1])), 0
        longest = context_length or len(ids)
        while done < len(ids):
            stop = min(done + (stride or max(1, longest // 2)) if done else longest, len(ids))
            start = max(0, stop - longest)
            windows.append((inputs[start:stop], ids[start:stop], done - start, place + done))
            done = stop
        place += len(ids)
    windows.sort(key=lambda window: len(window[0]))
    prices = torch.zeros(place)
    while windows:
        size = max(1, batch_tokens // len(windows[-1][0]))
        batch, windows = windows[-size:], windows[:-size]
        inputs, labels = (pad_sequence([w[i] for w in batch], batch_first=True).to(device) for i in (0, 1))
        nll = F.cross_entropy(model(inputs).transpose(1, 2).float(), labels, reduction="none").cpu()  # (B, T)
        for row, (_, ids, first, where) in zip(nll, batch):
            prices[where : where + len(ids) - first] = row[first : len(ids)]
    return prices


def score(nll, texts):
    """Perplexity per token, bits per character and bits per byte of `texts`, as a dict.

    nll: -log p in nats of every token of the texts, `(N,)`, end tokens included.
    """
    bits = nll.double().sum().item() / math.log(2)
    return {
        "perplexity": 2 ** (bits / len(nll)),
        "bits per character": bits / sum(len(text) for text in texts),
        "bits per byte": bits / sum(len(text.encode()) for text in texts),
    }
