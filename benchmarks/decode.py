"""Tokens a second of the course's decoding beside transformers': `python -m benchmarks.decode`.

A GPT-2 of 6 layers, 256 wide, vocabulary 8,192, random weights, the same in lesson 12's GPT and in transformers'
GPT2LMHeadModel; prompts of 16 tokens, 256 new ones, greedy, no end token. Three ways by turns: lesson 13's `generate`
with a cache, without one (the head reads the last place only), and `transformers.generate` with its cache. The last
line holds ratios of the medians for one prompt.
"""

import argparse
import time
from statistics import median

import torch

from aigc_course.decoding import generate, store_for_single_tokens
from aigc_course.models.gpt import GPT, GPTConfig, as_transformers

CONFIG = GPTConfig(vocab_size=8192, context_length=512, n_layer=6, n_head=8, n_embd=256)
PROMPT, NEW = 16, 256


def ways(ours, theirs, prompts):
    """{"cached": ..., "generate": ..., "uncached": ...}: functions that return the new tokens, lists of ids."""
    ids = torch.tensor(prompts)

    def by_transformers(new):
        mask = torch.ones_like(ids)
        return theirs.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False)[:, PROMPT:].tolist()

    return {
        "cached": lambda new: generate(ours, prompts, new, temperature=0),
        "generate": by_transformers,
        "uncached": lambda new: generate(ours, prompts, new, temperature=0, use_cache=False),
    }


def measure(ours, theirs, batch_size, rounds, slow_rounds):
    """Median seconds of each way; the uncached one runs only in the first slow_rounds of the rounds."""
    prompts = torch.randint(CONFIG.vocab_size, (batch_size, PROMPT)).tolist()
    functions, seconds = ways(ours, theirs, prompts), {}
    first = [function(8) for function in functions.values()]  # warms up
    assert first[0] == first[1] == first[2], "the three ways give different tokens"
    for turn in range(rounds):
        for name, function in functions.items():
            if name == "uncached" and turn >= slow_rounds:
                continue
            start = time.perf_counter()
            function(NEW)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    for name, values in seconds.items():
        speeds = [batch_size * NEW / s for s in (median(values), max(values), min(values))]
        print(
            f"{batch_size:2} prompts  {name:8}  {speeds[0]:6.0f} tokens a second ({speeds[1]:.0f} to {speeds[2]:.0f})",
            flush=True,
        )
    return {name: median(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="for one prompt; with 16 prompts a third of them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ours = GPT(CONFIG).eval()
    theirs = as_transformers(ours)
    store_for_single_tokens(ours)
    measure(ours, theirs, 16, max(1, options.rounds // 3), 1)
    seconds = measure(ours, theirs, 1, options.rounds, max(1, options.rounds // 3))
    by_generate, by_uncached = seconds["generate"] / seconds["cached"], seconds["uncached"] / seconds["cached"]
    print(f"cached/generate {by_generate:.2f} cached/uncached {by_uncached:.2f}")


if __name__ == "__main__":
    main()
