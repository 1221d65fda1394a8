"""A character model after so many seconds: `python -m benchmarks.charlm --text FILE --seconds 60 --threads 2`.

Trains lesson 12's GPT on the characters of any text: the first 90 % for training, the last 10 % for validation,
context 64, at most 0.81 million parameters. The last line is the loss in nats a character, the mean over the whole
validation part cut in windows of 64. `--baseline` trains the plain GPT-2 block in nanoGPT's published CPU setting
for the same seconds.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aigc_course.data import Batches
from aigc_course.models.gpt import GPT, GPTConfig, count_parameters
from aigc_course.runtime import seed_everything
from aigc_course.training import Both, train, warmup_cosine

CONTEXT, MOST_PARAMETERS = 64, 810_000
MODERN = dict(norm="rms", positions="rotary", activation="relu2")


def warmup_linear(fraction, warmup=0.02, end=0.02):
    """Factor on the learning rate: linear up to 1 during `warmup`, then linear down to `end`."""
    return min(1.0, (fraction + 1e-3) / warmup, end + (1 - end) * (1 - fraction) / (1 - warmup))


class RandomWindows:
    """nanoGPT's batches: windows of the text at random places, with replacement."""

    def __init__(self, ids, batch_size, seed):
        self.ids, self.batch_size, self.g = ids, batch_size, torch.Generator().manual_seed(seed)

    def __getitem__(self, step):
        starts = torch.randint(len(self.ids) - CONTEXT, (self.batch_size, 1), generator=self.g)
        return self.ids[starts + torch.arange(CONTEXT + 1)]  # (B, CONTEXT + 1)


def windows(ids):
    """The text cut in windows of CONTEXT characters, each with the character that follows: `(N, CONTEXT + 1)`."""
    return ids[: (len(ids) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)


def next_token_loss(model, rows, reduction="mean"):
    """Cross-entropy in nats of each token of rows `(B, T + 1)` but the first, given those before it."""
    logits = model(rows[:, :-1])  # (B, T, vocab_size)
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def validation_loss(model, ids):
    """Mean loss in nats a character over the windows of `ids`."""
    rows = windows(ids)
    return sum(next_token_loss(model, part, "sum").item() for part in rows.split(256)) / (len(rows) * CONTEXT)


def modern_optimizer(model):
    """Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) for the blocks' matrices, AdamW for the rest.

    Muon turns a matrix's gradient into the nearest orthogonal matrix, so that all its directions move equally far.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    rest = [model.token_embedding.weight, *(p for p in model.parameters() if p.ndim == 1)]
    return Both(
        torch.optim.Muon(matrices, lr=2e-3, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )


def best_time(function, tries=20):
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(tries):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def bfloat16_is_fast():
    """Whether this processor multiplies matrices faster in bfloat16 (16 bits a number) than in float32."""
    a = torch.ones(512, 512)
    b = a.bfloat16()
    return best_time(lambda: b @ b) < 0.8 * best_time(lambda: a @ a)


def modern_config(vocab_size):
    """Four layers, as wide as the limit on parameters allows for this alphabet."""
    for width in (128, 112, 96, 80, 64, 48, 32, 16):
        config = GPTConfig(vocab_size, CONTEXT, n_layer=4, n_head=4, n_embd=width, **MODERN)
        if count_parameters(config) <= MOST_PARAMETERS:
            return config
    raise ValueError(f"{vocab_size} different characters are too many for {MOST_PARAMETERS} parameters")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="a text file in UTF-8")
    parser.add_argument("--seconds", type=float, default=60, help="of training; reading and scoring are not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--baseline", action="store_true", help="GPT-2's block as nanoGPT trains it on a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seed_everything(options.seed)

    text = options.text.read_text(encoding="utf-8")
    place = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([place[character] for character in text])
    training, validation = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    step = lambda rows: next_token_loss(model, rows)
    if options.baseline:
        model = GPT(GPTConfig(len(place), CONTEXT, n_layer=4, n_head=4, n_embd=128))
        batches = RandomWindows(training, batch_size=12, seed=options.seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
        schedule = warmup_cosine  # 1e-3 to 1e-4
    else:
        model = GPT(modern_config(len(place)))
        batches = Batches(windows(training), batch_size=16, seed=options.seed)
        optimizer, schedule = modern_optimizer(model), warmup_linear
        half = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast())
        plain = sdpa_kernel(SDPBackend.MATH)  # the fastest for 64 tokens
        step = half(plain(step))
    history = train(
        step, model, batches, optimizer=optimizer, seconds=options.seconds, schedule=schedule, clip_norm=1.0
    )
    tokens = len(history) * batches.batch_size * CONTEXT
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    print(f"{len(history)} steps, {tokens / options.seconds:.0f} tokens per second")
    print(f"validation loss {validation_loss(model, validation):.4f}")


if __name__ == "__main__":
    main()
