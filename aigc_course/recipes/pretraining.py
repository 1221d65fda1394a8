"""What the recipes of the shipped models share: the optimiser, the baselines, and what goes into their folders."""

import argparse
import gzip
import hashlib
import json
import lzma
import math
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from aigc_course.files import sha256, write_atomically
from aigc_course.models.language import ngram_keys
from aigc_course.paths import DATA


def command_line(text, steps, batch_size, target):
    """The argparse parser of a pretraining recipe: its first line of help, and its defaults."""
    parser = argparse.ArgumentParser(description=text.split("\n")[0])
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch_size", type=int, default=batch_size, help="of all processes together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16",
                        help="of matrix products; bfloat16 is slow on processors that lack it")  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="faster; needs a C++ compiler")
    parser.add_argument("--target", type=Path, default=target, help="folder to write to")
    return parser


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) for matrices, AdamW for all else, as one optimiser.

    Muon replaces the running mean of a matrix's gradient by the nearest orthogonal matrix, so that every direction
    moves equally far; 0.2 sqrt(n) makes an entry's step as long as AdamW's usually is (Liu et al., 2025,
    arXiv:2502.16982). groups: {"params", "lr"} for AdamW, and with "split" for Muon: a matrix `(split * n, m)` holds so
    many matrices, as a layer for queries, keys and values does.
    """

    def __init__(self, groups, momentum=0.95, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, dtype=torch.float32):
        self.dtype = dtype  # of Muon's matrix products
        defaults = dict(momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay, split=0)
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(self.muon(p, group) if group["split"] else self.adam(p, group), alpha=group["lr"])

    def muon(self, p, group):
        state, split = self.state[p], group["split"]
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - group["momentum"])
        ahead = p.grad.lerp(mean, group["momentum"])  # Nesterov's
        matrices = ahead.view(split, -1, p.shape[1])
        return (orthogonal(matrices, self.dtype) * (0.2 * math.sqrt(max(matrices.shape[1:])))).view_as(p)

    def adam(self, p, group):
        state, (beta1, beta2) = self.state[p], group["betas"]
        state["step"] = state.get("step", 0) + 1
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - beta1)
        square = state.setdefault("square", torch.zeros_like(p)).lerp_(p.grad.square(), 1 - beta2)
        square = square / (1 - beta2 ** state["step"])
        return mean / (1 - beta1 ** state["step"]) / (square.sqrt() + group["eps"])


def orthogonal(matrices, dtype=torch.float32, steps=5):
    """Nearly the nearest orthogonal matrices to `(B, n, m)`: singular values about 1, by a Newton-Schulz iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def warmup_linear(fraction, warmup=0.02, end=0.02):
    """Factor on the learning rate: linear up to 1 during `warmup`, then linear down to `end`."""
    return min(1.0, (fraction + 1e-3) / warmup, end + (1 - end) * (1 - fraction) / (1 - warmup))


class Stopwatch:
    """Processor seconds of this process, all threads together, since the last call."""

    def __init__(self):
        self.last = time.process_time()

    def __call__(self):
        before, self.last = self.last, time.process_time()
        return self.last - before


class KneserNey:
    """Interpolated Kneser-Ney smoothing (Kneser and Ney, 1995) of n-grams up to n, with one discount an order.

    reviews: a list of int64 tensors, each closed by the end token, number vocab_size - 1.
    """

    def __init__(self, reviews, n, vocab_size):
        if vocab_size**n >= 2**63:
            raise ValueError(f"{vocab_size} tokens are too many to write {n} of them as one whole number")
        self.n, self.vocab_size, self.orders = n, vocab_size, []
        keys, counts = ngram_keys(reviews, n, vocab_size).unique(return_counts=True)
        for order in range(n, 0, -1):  # below the longest, an n-gram counts once for each token that it follows
            contexts, which, kinds = (keys // vocab_size).unique(return_inverse=True, return_counts=True)
            totals = torch.zeros_like(contexts).index_add(0, which, counts)
            once, twice = (counts == 1).sum().item(), (counts == 2).sum().item()
            discount = once / max(1, once + 2 * twice)
            self.orders.insert(0, (keys, counts, contexts, totals, kinds, discount))
            keys, counts = (keys % vocab_size ** (order - 1)).unique(return_counts=True)

    def probability(self, reviews):
        """p(token | the n - 1 before) for every token of `reviews`, float64 `(N,)`."""
        grams = ngram_keys(reviews, self.n, self.vocab_size)
        p = torch.full(grams.shape, 1 / self.vocab_size, dtype=torch.float64)
        for order, (keys, counts, contexts, totals, kinds, discount) in enumerate(self.orders, 1):
            gram = grams % self.vocab_size**order
            count = find(gram, keys, counts)
            total, kind = (find(gram // self.vocab_size, contexts, values) for values in (totals, kinds))
            seen = total.clamp(min=1)
            p = torch.where(total > 0, (count - discount).clamp(min=0) / seen + discount * kind / seen * p, p)
        return p


def find(wanted, keys, values):
    """values[i] where keys[i] is the wanted one, 0 where there is none; `keys` is sorted."""
    i = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[i] == wanted, values[i], 0).double()


def compressed_bits(validation, training):
    """Bits a byte of general compressors on the validation texts: alone, and beyond what the training texts take.

    Each text is closed by a zero byte, which is compressed too and not counted as a byte of text.
    """
    alone, before = ("".join(text + "\0" for text in texts).encode() for texts in (validation, training))
    bits = 8 / sum(len(text.encode()) for text in validation)
    found = {}
    for name, compress in (("gzip -9", gzip.compress), ("xz -9", lambda b: lzma.compress(b, preset=9))):
        found[f"{name}, validation alone"] = len(compress(alone)) * bits
        found[f"{name}, behind the training text"] = (len(compress(before + alone)) - len(compress(before))) * bits
    return found


def longest_copy(texts, training):
    """The longest run of words of any of `texts` that stands word for word in a training text; words as `split` cuts.

    Finds runs of 1, 2, 3, ... words by hashes that grow by a word at a time, until there is none.
    """
    numbers = {}
    number = lambda words: [numbers.setdefault(word, len(numbers) + 1) for word in words]
    stream = torch.tensor([i for text in training for i in [*number(text.split()), -1]])
    own = torch.tensor([i for text in texts for i in [*number(text.split()), -2]])
    words = [word for text in texts for word in [*text.split(), ""]]
    known, wanted, best = stream.clone(), own.clone(), (0, 0)
    for length in range(1, len(own) + 1):
        hits = torch.isin(wanted, known).nonzero()
        if not len(hits):
            break
        best = (hits[0].item(), length)
        known, wanted = (
            hashes[:-1] * 6364136223846793005 + whole[length:] * 1442695040888963407  # whole numbers modulo 2^64
            for hashes, whole in ((known, stream), (wanted, own))
        )
    return " ".join(words[best[0] : best[0] + best[1]])


def fingerprint(tokens):
    """A short text that stands for a list of tensors: another one means other data."""
    return hashlib.sha256(torch.cat(tokens).numpy().tobytes()).hexdigest()[:16]


def half_precision(model):
    """Rounds the weights to float16, as they will be on disk; all figures are of these."""
    return model.half().float()


def write_model(folder, model, tokenizer):
    """Model and tokenizer as transformers reads them: float16 on disk, and computed with in float32."""
    model.half().save_pretrained(folder)
    model.float()
    tokenizer.save_pretrained(folder)
    for path in folder.glob("*.json"):  # each in one line: no line ends to be changed
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "config.json":
            content["dtype"] = "float32"
        write_atomically(path, json.dumps(content, ensure_ascii=False).encode())


def write_log(folder, history, every=20):
    """log.json: the mean training loss of each `every` steps, and (step, validation loss) pairs."""
    losses = torch.tensor(history["loss"])
    means = [round(part.mean().item(), 4) for part in losses.split(every)]
    evaluations = [[step, round(score, 4)] for step, score in history.evaluations]
    log = {"steps each": every, "training loss": means, "validation loss": evaluations}
    write_atomically(folder / "log.json", json.dumps(log).encode())


def write_card(folder, card, figures, module, **values):
    """README.md from the text `card`, with a table of figures, the versions and the command."""
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures.items())
    made = dict(
        command=" ".join([f"python -m {module}", *sys.argv[1:]]), python=platform.python_version(),
        torch=version("torch"), transformers=version("transformers"), tokenizers=version("tokenizers"),
    )  # fmt: skip
    write_atomically(folder / "README.md", card.format(figures=rows, **made, **values).encode())


def print_sums(folder):
    """The lines that data/SHA256SUMS needs."""
    for path in sorted(folder.iterdir()):
        if path.name not in ("README.md", "log.json"):
            print(f"{sha256(path)}  {path.relative_to(DATA).as_posix() if path.is_relative_to(DATA) else path}")
    print("Put these lines into data/SHA256SUMS in place of the old ones.")
