"""Exercises of lesson 11, attention."""

import math

import torch

from . import Exercise, Mistake


def window_mask(T, window):
    back = torch.arange(T)[:, None] - torch.arange(T)  # (T, T): how far back the key lies
    return (back >= 0) & (back < window)


def padded_attention(q, k, v, lengths):
    real = torch.arange(k.shape[2]) < lengths[:, None]  # (B, T)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, heads, T, T)
    scores = scores.masked_fill(~real[:, None, None, :], -math.inf)
    return scores.softmax(dim=-1) @ v


def grouped_attention(q, k, v):
    share = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(share, dim=1) for x in (k, v))  # (B, heads, T, head_dim)
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def rotate_neighbours(x):
    T, d = x.shape[-2:]
    angles = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, d, 2) / d)  # (T, d / 2)
    a, b = x[..., 0::2], x[..., 1::2]  # (B, heads, T, d / 2) each
    turned = (a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos())
    return torch.stack(turned, dim=-1).flatten(-2)  # (..., d / 2, 2) -> (..., d)


def attention_parameters(d_model, heads, groups, bias):
    shared = groups * (d_model // heads)  # width of all keys together, and of all values
    weights = 2 * d_model * d_model + 2 * d_model * shared  # queries and output; keys and values
    return weights + bias * (2 * d_model + 2 * shared)


# --- wrong answers that take more than a line ---


def mask_after_softmax(q, k, v, lengths):
    real = torch.arange(k.shape[2]) < lengths[:, None]
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return (weights * real[:, None, None, :]) @ v


def small_mask(q, k, v, lengths):
    padding = torch.arange(k.shape[2]) >= lengths[:, None]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (scores - 100.0 * padding[:, None, None, :]).softmax(dim=-1) @ v


def queries_masked(q, k, v, lengths):
    real = torch.arange(k.shape[2]) < lengths[:, None]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~real[:, None, :, None], -math.inf).softmax(dim=-1) @ v


def one_too_many(q, k, v, lengths):
    return padded_attention(q, k, v, lengths + 1)


def unscaled(q, k, v, lengths):
    return padded_attention(q * math.sqrt(q.shape[-1]), k, v, lengths)


def scaled_twice(q, k, v, lengths):
    return padded_attention(q / math.sqrt(q.shape[-1]), k, v, lengths)


def heads_take_turns(q, k, v):
    share = q.shape[1] // k.shape[1]
    k, v = (x.repeat(1, share, 1, 1) for x in (k, v))
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def turned(x, places=0, sign=1, exponent=2, halves=False, joined=False):
    """`rotate_neighbours` with one thing done differently."""
    T, d = x.shape[-2:]
    speeds = 10000.0 ** (-exponent * torch.arange(d // 2) / d)
    angles = sign * (torch.arange(T) + places)[:, None] * speeds
    a, b = x.chunk(2, dim=-1) if halves else (x[..., 0::2], x[..., 1::2])
    first, second = a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()
    if halves or joined:
        return torch.cat((first, second), dim=-1)
    return torch.stack((first, second), dim=-1).flatten(-2)


# --- inputs ---


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def window_case(g):
    (T,) = sizes(g, (5, 9))
    (window,) = sizes(g, (1, T + 1))
    return T, window


def padded_case(g):
    B, heads, T, head_dim = sizes(g, (2, 4), (1, 3), (4, 7), (2, 6))
    q, k, v = (torch.randn(B, heads, T, head_dim, generator=g) for _ in range(3))
    lengths = torch.randint(1, T - 1, (B,), generator=g)  # at least two places of padding ...
    lengths[-1] = T  # ... except in the last text
    padding = torch.arange(T) >= lengths[:, None]  # (B, T)
    q[..., 0] = q[..., 0].abs() + 1
    k[..., 0] += padding[:, None] * 1e12  # padding is so loud that no constant taken off a score silences it
    return q, k, v, lengths


def grouped_case(g):
    B, groups, share, T, head_dim = sizes(g, (1, 3), (2, 3), (2, 3), (2, 6), (2, 6))
    q = 2 * torch.randn(B, groups * share, T, head_dim, generator=g)
    return q, *(torch.randn(B, groups, T, head_dim, generator=g) for _ in range(2))


def rotary_case(g):
    B, heads, T, pairs = sizes(g, (1, 3), (1, 3), (4, 8), (2, 4))
    return (torch.randn(B, heads, T, 2 * pairs, generator=g),)


def parameters_case(g):
    groups, share, head_dim, bias = sizes(g, (1, 4), (2, 4), (4, 16), (0, 1))
    return groups * share * head_dim, groups * share, groups, bool(bias)


EXERCISES = (
    Exercise(
        id="11.1",
        solution=window_mask,
        cases=window_case,
        mistakes=(
            Mistake(
                lambda T, window: window_mask(T, window + 1),
                "One place too many: the token itself is one of the `window` places.",
                "多看了一个位置：`window` 个位置里已经包含词元自己。",
            ),
            Mistake(
                lambda T, window: torch.ones(T, T).triu(1 - window).tril(window - 1).bool(),
                "The window is open to the future too: a key must not come after its query.",
                "窗口向未来也敞开了：键不能排在查询之后。",
            ),
            Mistake(
                lambda T, window: torch.ones(T, T).tril().bool(),
                "This is the causal mask alone; where does the window end on the left?",
                "这只是因果掩码；窗口的左端在哪里？",
            ),
            Mistake(
                lambda T, window: ~window_mask(T, window),
                "True and False are exchanged: True is where a query may look.",
                "True 和 False 弄反了：True 表示查询可以看的位置。",
            ),
            Mistake(
                lambda T, window: window_mask(T, window).T,
                "Rows and columns are exchanged: a row is a query, a column is a key.",
                "行和列弄反了：行是查询，列是键。",
            ),
        ),
        hints=(
            (
                "How far back does key j lie from query i? The answer is a matrix.",
                "键 j 在查询 i 之前多远？把所有答案排成一个矩阵。",
            ),
            (
                "With `back = i - j`, two conditions must hold: 0 <= back and back < window.",
                "设 `back = i - j`，要同时满足两个条件：0 <= back，且 back < window。",
            ),
        ),
    ),
    Exercise(
        id="11.2",
        solution=padded_attention,
        cases=padded_case,
        mistakes=(
            Mistake(
                mask_after_softmax,
                "The mask comes after the softmax: padding is still in the denominator, and rows do not sum to one.",
                "掩码加在 softmax 之后：分母里仍有填充，每行之和也不为 1。",
            ),
            Mistake(
                small_mask,
                "Padding may have any score: no constant taken off is sure to be enough, -math.inf always is.",
                "填充位置的得分可以任意大，减去哪个常数都不保险；-math.inf 才总是够的。",
            ),
            Mistake(
                queries_masked,
                "The mask is on the queries (rows). Keys are the last axis: (B, 1, 1, T).",
                "掩码落在了查询（行）上。键在最后一维：(B, 1, 1, T)。",
            ),
            Mistake(
                one_too_many,
                "One place of padding is still heard: places are counted from 0, so the last real one is lengths - 1.",
                "还听到了一个填充位置：位置从 0 数起，最后一个真实词元在 lengths - 1。",
            ),
            Mistake(
                unscaled,
                "The factor 1 / sqrt(head_dim) is missing.",
                "漏了因子 1 / sqrt(head_dim)。",
            ),
            Mistake(
                scaled_twice,
                "The scores are divided by head_dim; it should be its root.",
                "得分除以了 head_dim；应当除以它的平方根。",
            ),
        ),
        hints=(
            (
                "First a mask (B, T) of what is real, then two axes of size 1 for heads and queries.",
                "先做一个 (B, T) 的“是否真实”掩码，再给头和查询各补一个大小为 1 的维。",
            ),
            (
                "scores.masked_fill(~real[:, None, None, :], -math.inf), and only then the softmax.",
                "先 scores.masked_fill(~real[:, None, None, :], -math.inf)，再做 softmax。",
            ),
        ),
    ),
    Exercise(
        id="11.3",
        solution=grouped_attention,
        cases=grouped_case,
        mistakes=(
            Mistake(
                heads_take_turns,
                "Heads take turns with the groups; neighbours should share one: repeat_interleave, not repeat.",
                "各头在轮流使用各组；应当让相邻的头共用一组：用 repeat_interleave，不用 repeat。",
            ),
            Mistake(
                lambda q, k, v: grouped_attention(q, k[:, :1], v[:, :1]),
                "All heads use the first group of keys and values.",
                "所有的头都用了第一组键和值。",
            ),
            Mistake(
                lambda q, k, v: grouped_attention(q, k.mean(1, keepdim=True), v.mean(1, keepdim=True)),
                "The groups are averaged together; each keeps its own keys and values.",
                "各组被平均在了一起；每组都有自己的键和值。",
            ),
            Mistake(
                lambda q, k, v: grouped_attention(q * math.sqrt(q.shape[-1]), k, v),
                "The groups are right, but the factor 1 / sqrt(head_dim) is missing.",
                "分组是对的，但漏了因子 1 / sqrt(head_dim)。",
            ),
        ),
        hints=(
            (
                "Give every query head a copy of its group's keys and values; then it is ordinary attention.",
                "给每个查询头一份它那组的键和值，剩下的就是普通的注意力。",
            ),
            (
                "k.repeat_interleave(heads // groups, dim=1) copies each group for its neighbours.",
                "k.repeat_interleave(heads // groups, dim=1) 把每组复制给相邻的几个头。",
            ),
        ),
    ),
    Exercise(
        id="11.4",
        solution=rotate_neighbours,
        cases=rotary_case,
        mistakes=(
            Mistake(
                lambda x: turned(x, halves=True),
                "These are the pairs of the lesson (i and i + d/2); here neighbours are paired.",
                "这是课文里的配对（i 与 i + d/2）；这里要让相邻的两个数配成一对。",
            ),
            Mistake(
                lambda x: turned(x, sign=-1),
                "Turned the wrong way: a positive angle takes (1, 0) to (cos, sin).",
                "转反了：角度为正时，(1, 0) 应转到 (cos, sin)。",
            ),
            Mistake(
                lambda x: turned(x, places=1),
                "Places are counted from 0: the first token is not turned at all.",
                "位置从 0 数起：第一个词元完全不转。",
            ),
            Mistake(
                lambda x: turned(x, exponent=1),
                "The clocks are too fast: the exponent of pair i is -2i/d, not -i/d.",
                "时钟走得太快：第 i 对的指数是 -2i/d，不是 -i/d。",
            ),
            Mistake(
                lambda x: turned(x, joined=True),
                "Each number is right, but in the wrong place: the two of a pair must be neighbours again.",
                "数都对，位置不对：同一对的两个数要重新排成邻居。",
            ),
        ),
        hints=(
            ("x[..., 0::2] are the first ones of all pairs.", "x[..., 0::2] 是所有数对的第一个数。"),
            (
                "torch.stack((first, second), dim=-1).flatten(-2) weaves them together again.",
                "torch.stack((first, second), dim=-1).flatten(-2) 把两部分重新交错起来。",
            ),
        ),
    ),
    Exercise(
        id="11.5",
        solution=attention_parameters,
        cases=parameters_case,
        mistakes=(
            Mistake(
                lambda d_model, heads, groups, bias: 4 * (d_model * d_model + bias * d_model),
                "Keys and values are narrower than queries: they have only `groups` heads.",
                "键和值比查询窄：它们只有 `groups` 个头。",
            ),
            Mistake(
                lambda d_model, heads, groups, bias: (
                    attention_parameters(d_model, heads, groups, bias) - d_model * d_model - bias * d_model
                ),
                "One linear map is missing: the output projection, d_model by d_model.",
                "少算了一个线性映射：输出投影，d_model × d_model。",
            ),
            Mistake(
                lambda d_model, heads, groups, bias: heads * attention_parameters(d_model, heads, groups, bias),
                "Heads share the width of the layer; they do not multiply it.",
                "各头是分摊这一层的宽度，而不是把它翻倍。",
            ),
        ),
        hints=(
            ("Four maps: two of full width, two narrower.", "共四个映射：两个全宽，两个较窄。"),
            (
                "A linear map from m to n numbers has m * n weights, and n biases if any.",
                "从 m 个数到 n 个数的线性映射有 m * n 个权重；若带偏置，再加 n 个。",
            ),
        ),
    ),
)
