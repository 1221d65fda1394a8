"""From a model's logits to tokens: the decoding of lesson 13, where each part is explained.

A filter takes logits `(B, vocab_size)` and returns new ones of that shape; a token that it rules out gets -inf.
"""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from aigc_course.models.gpt import KVCache


def apply_temperature(logits, temperature):
    """Logits divided by temperature: below 1 sharper, above 1 flatter. Raises ValueError unless it is positive."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}; for temperature 0 take the argmax")
    return logits / temperature


def top_k_filter(logits, k):
    """Keeps the k largest logits, and those that equal the k-th (Fan et al., 2018, arXiv:1805.04833).

    A k above the vocabulary keeps all. Raises ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"top_k must be at least 1, not {k}; None switches it off")
    smallest = logits.topk(min(k, logits.shape[-1])).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest, -math.inf)


def top_p_filter(logits, p):
    """Keeps the nucleus: the fewest tokens whose probability is at least p (Holtzman et al., 2020, arXiv:1904.09751).

    The most probable token always stays; of tokens with equal logits the lower ids go first.
    Raises ValueError for p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"top_p must lie in [0, 1], not {p}")
    ordered, order = logits.sort(stable=True)  # the least probable first, (B, vocab_size) both
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - p
    drop[:, -1] = False
    return logits.masked_fill(drop.scatter(1, order, drop), -math.inf)


def min_p_filter(logits, p):
    """Keeps the tokens at least p times as probable as the most probable one (Nguyen et al., 2024, arXiv:2407.01082).

    Raises ValueError for p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p must lie in [0, 1], not {p}")
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -math.inf)


def repetition_penalty(logits, input_ids, attention_mask, penalty):
    """Makes tokens that were read before less probable, as `transformers` does.

    After Keskar et al. (2019, arXiv:1909.05858), who divide every logit; the case split by sign is the library's.

    input_ids, attention_mask: `(B, T)`; where the mask is 0 nothing was read; None: all was read.
    penalty above 1: a positive logit is divided by it, a negative one multiplied. Raises ValueError unless positive.
    """
    if not penalty > 0:
        raise ValueError(f"penalty must be positive, not {penalty}; 1 changes nothing")
    read = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    counts = torch.zeros_like(logits).scatter_add(1, input_ids, read.to(logits.dtype))
    return torch.where(counts > 0, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def next_token(
    logits, input_ids, attention_mask=None, *,
    temperature=1.0, top_k=None, top_p=None, min_p=None, penalty=1.0, generator=None,
):  # fmt: skip
    """One token a row, int64 `(B,)`; temperature 0 takes the most probable, else one is drawn.

    The filters come in the order of their names here, the penalty before all. The draw is made on the CPU with a CPU
    generator, so that a seed means the same on every device.
    """
    logits = logits.float()
    if penalty != 1:
        logits = repetition_penalty(logits, input_ids, attention_mask, penalty)
    if temperature == 0:
        return logits.argmax(-1)
    logits = apply_temperature(logits, temperature)
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    if min_p is not None:
        logits = min_p_filter(logits, min_p)
    probs = logits.softmax(-1).cpu()
    return torch.multinomial(probs, 1, generator=generator)[:, 0].to(logits.device)


def left_pad(prompts, device=None):
    """input_ids and attention_mask, int64 `(B, T)` both, of prompts of any lengths: zeros stand before the short ones.

    prompts: lists of token ids. Raises ValueError if there are none or one is empty.
    """
    if not len(prompts) or not all(len(prompt) for prompt in prompts):
        raise ValueError("no prompt, or an empty one: a model needs a token to start from, such as its start token")
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def check_room(model, length, max_new_tokens):
    """Raises ValueError if the model cannot read `length` tokens and write so many new ones, or has dropout on."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    reads, most = length + max_new_tokens - 1, model.config.context_length  # nobody reads the last token
    if reads > most:
        raise ValueError(
            f"a prompt of {length} tokens and {max_new_tokens} new ones: {reads} to read, context_length is {most}"
        )
    if model.training and model.config.dropout:
        raise ValueError("the model drops units at random: call model.eval() first")


@contextmanager
def cpu_threads(count):
    """Within it torch computes with `count` CPU threads, afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def generate(model, prompts, max_new_tokens, *, end=None, use_cache=True, **choice):
    """Continues each prompt: a list of lists of new token ids; where `end` came, it is the last.

    model: a GPT. prompts: lists of token ids, of different lengths if need be. end: the token id that ends a row.
    choice: temperature (default 1.0; 0 is greedy), top_k, top_p, min_p, penalty, generator, as in `next_token`.
    use_cache: False reads all tokens again for every new one. Raises ValueError where the context is too short.
    """
    if choice.get("temperature", 1.0) < 0:
        raise ValueError(f"temperature must not be negative: {choice['temperature']}")
    ids, mask = left_pad(prompts, next(model.parameters()).device)
    B, T = ids.shape
    check_room(model, T, max_new_tokens)
    padded = len({len(prompt) for prompt in prompts}) > 1  # else plain causality is enough, and faster
    ids, mask = F.pad(ids, (0, max_new_tokens)), F.pad(mask, (0, max_new_tokens), value=1)
    cache = KVCache(model, B, T + max_new_tokens) if use_cache else None
    ended = torch.zeros(B, dtype=torch.bool, device=ids.device)
    alone = B == 1 and use_cache  # work for one thread: a second one costs more waiting than it does work
    with cpu_threads(1 if alone else torch.get_num_threads()):
        for t in range(T, T + max_new_tokens):
            new = ids[:, cache.length : t] if use_cache else ids[:, :t]
            hidden = model.hidden(new, attention_mask=mask[:, :t] if padded else None, cache=cache)
            logits = model.head(hidden[:, -1])  # (B, vocab_size)
            ids[:, t] = next_token(logits, ids[:, :t], mask[:, :t], **choice)
            if end is not None:
                ended |= ids[:, t] == end
                if ended.all():
                    break
    return [cut(row, end) for row in ids[:, T : t + 1].tolist()]


def cut(tokens, end):
    """The list up to and with the first `end`; all of it where there is none."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def best_continuations(totals, log_p, count):
    """The `count` best ways to add one token to one of the rows: log p of the whole, row and token, `(count,)` each.

    totals: log p of each row so far, `(rows,)`; log_p: that of each token after it, `(rows, vocab_size)`.
    """
    everything = (totals[:, None] + log_p).flatten()
    totals, places = everything.topk(min(count, len(everything)))  # the best first
    return totals, places // log_p.shape[1], places % log_p.shape[1]


@torch.inference_mode()
def beam_search(model, prompt, max_new_tokens, *, beams, length_penalty=1.0, end=None):
    """The best continuation that it finds, and its score: the sum of log p in nats over length ** length_penalty.

    Of all continuations of the rows kept so far, one token longer, the `beams` best that go on are kept. One that
    ends with `end` is a candidate if it is among the `beams` best of all; so are the rows of max_new_tokens tokens.
    length_penalty: 0 compares sums, 1 means a token; the end token counts. Raises ValueError for beams below 1, an
    empty prompt, or too short a context.
    """
    if beams < 1:
        raise ValueError(f"beams must be at least 1, not {beams}")
    ids = left_pad([prompt], next(model.parameters()).device)[0]
    T = ids.shape[1]
    check_room(model, T, max_new_tokens)
    cache, new = KVCache(model, 1, T + max_new_tokens), ids
    totals, best, best_score = torch.zeros(1, device=ids.device), None, -math.inf
    for length in range(1, max_new_tokens + 1):
        log_p = model.head(model.hidden(new, cache=cache)[:, -1]).float().log_softmax(-1)  # (rows, vocab_size)
        totals, rows, tokens = best_continuations(totals, log_p, 2 * beams)  # half of them may end
        ends = tokens == (-1 if end is None else end)
        done = ends[:beams] | (length == max_new_tokens)
        for i in done.nonzero()[:1, 0].tolist():  # the first is the best of this length
            score = totals[i].item() / length**length_penalty
            if score > best_score:
                best, best_score = [*ids[rows[i], T:].tolist(), tokens[i].item()], score
        on = (~ends).nonzero()[:beams, 0]
        longest = max_new_tokens if length_penalty > 0 else length
        if not len(on) or totals[on[0]].item() / longest**length_penalty <= best_score:
            break  # no row can catch up: its log p only falls
        totals, rows, new = totals[on], rows[on], tokens[on, None]
        ids = torch.cat((ids[rows], new), dim=1)
        cache.select(rows)
    return best, best_score


def store_for_single_tokens(model):
    """Stores the weights of every block's linear layers column by column; no number changes. Returns the model.

    A product with a single row then runs through memory in the order in which it adds up, which is faster on a CPU.
    Train and save the model before: to save it afterwards takes `.contiguous()`.
    """
    for layer in model.blocks.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.T.contiguous().T
    return model
