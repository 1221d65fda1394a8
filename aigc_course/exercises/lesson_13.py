"""Exercises of lesson 13, decoding."""

import math
from types import SimpleNamespace

import torch

from . import Exercise, Mistake
from .core import difference, plain


def presence_penalty(logits, input_ids, amount):
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, input_ids, True)  # (B, vocab_size)
    return torch.where(seen, logits - amount, logits)


def largest_batch(memory, c, groups, tokens, bytes_per_number):
    width = groups * (c.n_embd // c.n_head)  # of all keys of a token in a layer, and of all values
    return memory // (2 * c.n_layer * width * tokens * bytes_per_number)


def gumbel_draw(logits, generator):
    u = torch.rand(logits.shape, generator=generator)
    return (logits - torch.log(-torch.log(u))).argmax(-1)


def typical_filter(logits, mass):
    log_p = logits.log_softmax(-1)
    surprise = -log_p
    entropy = torch.where(log_p.isfinite(), log_p.exp() * surprise, 0.0).sum(-1, keepdim=True)  # (B, 1)
    order = (surprise - entropy).abs().argsort(dim=-1)
    ordered = log_p.gather(1, order).exp()
    drop = ordered.cumsum(-1) - ordered >= mass  # enough was there before it
    drop[:, 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -math.inf)


def judge_draft(p, q, tokens, u):
    p_drafted, q_drafted = (x.gather(1, tokens[:, None])[:, 0] for x in (p, q))  # (B,)
    missing = (p - q).clamp(min=0)
    return u < p_drafted / q_drafted, missing / missing.sum(-1, keepdim=True)


# --- wrong answers that take more than a line ---


def penalty_each_time(logits, input_ids, amount):
    counts = torch.zeros_like(logits).scatter_add(1, input_ids, torch.ones_like(input_ids, dtype=logits.dtype))
    return logits - amount * counts


def penalty_in_place(logits, input_ids, amount):
    return logits.copy_(presence_penalty(logits, input_ids, amount))


def penalty_for_the_batch(logits, input_ids, amount):
    seen = torch.zeros(logits.shape[1], dtype=torch.bool)
    seen[input_ids.flatten()] = True
    return torch.where(seen, logits - amount, logits)


def gumbel(logits, noise):
    return (logits + noise).argmax(-1)


def typical(logits, mass, strict=False, by_probability=False, plain_mean=False):
    """`typical_filter` with one thing done differently."""
    log_p = logits.log_softmax(-1)
    entropy = -log_p.mean(-1, keepdim=True) if plain_mean else (log_p.exp() * -log_p).sum(-1, keepdim=True)
    order = (-log_p if by_probability else (-log_p - entropy).abs()).argsort(dim=-1)
    ordered = log_p.gather(1, order).exp()
    running = ordered.cumsum(-1)
    drop = running > mass if strict else running - ordered >= mass
    drop[:, 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -math.inf)


def judged(p, q, tokens, u, correct):
    """`judge_draft` with another distribution for what comes instead."""
    return judge_draft(p, q, tokens, u)[0], correct / correct.sum(-1, keepdim=True)


# --- inputs ---


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def penalty_case(g):
    B, V, T = sizes(g, (2, 4), (8, 12), (4, 6))
    ids = torch.randint(V, (B, T), generator=g)
    ids[:, 1] = ids[:, 0]  # one token twice in every row
    ids[0], ids[1, :] = ids[0] % (V // 2), ids[1] % (V // 2) + V // 2  # and rows that differ
    return 2 * torch.randn(B, V, generator=g) + 0.5, ids, 0.5 + 2 * torch.rand((), generator=g).item()


def verify_penalty(function, g):
    logits, input_ids, amount = penalty_case(g)
    given = logits.clone()
    found = function(given, input_ids, amount)
    if not torch.equal(given, logits):
        return "The function changed `logits` itself.", "函数改动了 `logits` 本身。"
    return difference(plain(presence_penalty(logits, input_ids, amount)), plain(found), EXERCISES[0])


def memory_case(g):
    layers, groups, share, head_dim, tokens, width = sizes(g, (2, 40), (2, 8), (2, 4), (16, 128), (100, 4000), (1, 2))
    heads = groups * share
    c = SimpleNamespace(n_layer=layers, n_head=heads, n_embd=heads * head_dim)
    one = 4 * layers * groups * head_dim * tokens * width
    (count, part) = sizes(g, (5, 60), (1, 99))
    return count * one + one * part // 100, c, groups, tokens, 2 * width


def gumbel_case(g):
    logits = torch.randn(6, 5, generator=g)
    return logits, torch.Generator().manual_seed(sizes(g, (0, 2**30))[0])


def verify_gumbel(function, g):
    logits = torch.tensor([[1.0, 0.0, -1.0, 0.5, -math.inf]]) + torch.tensor([[0.0], [3.0]])  # two rows, the same odds
    probs, n = logits.softmax(-1)[0], 20_000
    many = logits.repeat(n, 1)  # (2 n, 5)
    drawn = function(many.clone(), g)
    if not isinstance(drawn, torch.Tensor) or drawn.shape != (2 * n,) or drawn.dtype != torch.int64:
        return "Return one token for each row, int64 of shape (B,).", "每行返回一个词元，形状为 (B,) 的 int64。"
    if drawn.min() < 0 or drawn.max() > 4:
        return "These are not tokens of the vocabulary.", "这不是词表中的词元。"
    if (drawn == 4).any():
        return "A token with logit -inf was drawn.", "抽到了 logit 为 -inf 的词元。"
    share = drawn.bincount(minlength=5) / (2 * n)
    if (share - probs).abs().max() > 5 * math.sqrt(0.25 / (2 * n)):
        found, wanted = ([round(x, 3) for x in shares.tolist()] for shares in (share, probs))
        return (
            f"Shares of the tokens: {found}; the softmax is {wanted}.",
            f"各词元的频率：{found}；softmax 是 {wanted}。",
        )
    together = ((drawn[0::2] == 0) & (drawn[1::2] == 0)).float().mean()
    if (together - probs[0] ** 2).abs() > 5 * math.sqrt(0.25 / n):
        return "Two rows are not drawn independently.", "不同的行不是独立抽取的。"
    if torch.equal(drawn, function(many.clone(), g)):
        return "The same noise every time: does it come from the generator?", "每次噪声都一样：用的是 generator 吗？"


def typical_case(g):
    B, V = sizes(g, (3, 5), (12, 20))
    logits = 2.5 * torch.randn(B, V, generator=g)
    return logits, 0.2 + 0.6 * torch.rand((), generator=g).item()


def draft_case(g):
    B, V = sizes(g, (8, 12), (4, 7))
    p, q = (1.5 * torch.randn(2, B, V, generator=g)).softmax(-1)
    tokens = torch.multinomial(q, 1, generator=g)[:, 0]
    return p, q, tokens, torch.rand(B, generator=g)


EXERCISES = (
    Exercise(
        id="13.1",
        solution=presence_penalty,
        cases=penalty_case,
        verify=verify_penalty,
        mistakes=(
            Mistake(
                penalty_each_time,
                "A token that occurs twice is penalised twice; once is enough here.",
                "出现两次的词元被罚了两次；这里只罚一次。",
            ),
            Mistake(
                penalty_for_the_batch,
                "The rows are mixed up: each row has its own input_ids.",
                "各行混在一起了：每一行有自己的 input_ids。",
            ),
            Mistake(
                lambda logits, input_ids, amount: presence_penalty(logits, input_ids, -amount),
                "The sign is wrong: what was read becomes less probable.",
                "符号反了：读过的词元应当变得更不可能。",
            ),
            Mistake(
                lambda logits, input_ids, amount: logits - amount,
                "All tokens are penalised, and then the softmax does not change at all.",
                "所有词元都被罚了，softmax 也就毫无变化。",
            ),
            Mistake(
                lambda logits, input_ids, amount: presence_penalty(logits, input_ids[:, -1:], amount),
                "Only the last token is penalised.",
                "只罚了最后一个词元。",
            ),
            Mistake(
                penalty_in_place,
                "The numbers are right, but `logits` itself was changed: work on a copy.",
                "数值是对的，但 `logits` 本身被改动了：应当在副本上操作。",
            ),
        ),
        hints=(
            (
                "First a boolean (B, vocab_size): does the token occur in the row?",
                "先做一个 (B, vocab_size) 的布尔张量：这一行里有没有这个词元？",
            ),
            (
                "torch.zeros_like(logits, dtype=torch.bool).scatter(1, input_ids, True) marks them.",
                "torch.zeros_like(logits, dtype=torch.bool).scatter(1, input_ids, True) 可以标出它们。",
            ),
        ),
    ),
    Exercise(
        id="13.2",
        solution=largest_batch,
        cases=memory_case,
        mistakes=(
            Mistake(
                lambda memory, c, groups, tokens, size: (
                    2 * memory // (2 * c.n_layer * groups * (c.n_embd // c.n_head) * tokens * size)
                ),
                "Keys and values are both kept: a factor of 2 is missing.",
                "键和值都要保存：漏了因子 2。",
            ),
            Mistake(
                lambda memory, c, groups, tokens, size: largest_batch(memory, c, c.n_head, tokens, size),
                "Keys and values have only `groups` heads, fewer than the queries.",
                "键和值只有 `groups` 个头，比查询的头少。",
            ),
            Mistake(
                lambda memory, c, groups, tokens, size: c.n_layer * largest_batch(memory, c, groups, tokens, size),
                "Every layer has keys and values of its own.",
                "每一层都有自己的键和值。",
            ),
            Mistake(
                lambda memory, c, groups, tokens, size: size * largest_batch(memory, c, groups, tokens, size),
                "Numbers are not bytes: each takes bytes_per_number of them.",
                "数的个数不等于字节数：每个数占 bytes_per_number 个字节。",
            ),
            Mistake(
                lambda memory, c, groups, tokens, size: largest_batch(memory, c, groups, tokens, size) + 1,
                "One text too many: the last one does not fit as a whole.",
                "多算了一篇：最后一篇放不下。",
            ),
        ),
        hints=(
            (
                "How many numbers does one token take, in one layer? Then multiply.",
                "一个词元在一层里占多少个数？由此一路乘上去。",
            ),
            (
                "Keys and values: 2 * n_layer * groups * (n_embd // n_head) numbers a token; // rounds down.",
                "键和值：每个词元 2 * n_layer * groups * (n_embd // n_head) 个数；// 向下取整。",
            ),
        ),
    ),
    Exercise(
        id="13.3",
        solution=gumbel_draw,
        cases=gumbel_case,
        verify=verify_gumbel,
        mistakes=(
            Mistake(
                lambda logits, generator: gumbel(
                    logits, torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))
                ),
                "The outer sign is missing: the noise is -log(-log u).",
                "外面的负号丢了：噪声是 -log(-log u)。",
            ),
            Mistake(
                lambda logits, generator: gumbel(logits, -torch.log(torch.rand(logits.shape, generator=generator))),
                "This is exponential noise, -log u; one more logarithm is needed.",
                "这是指数分布的噪声 -log u；还要再取一次对数。",
            ),
            Mistake(
                lambda logits, generator: gumbel(logits, torch.randn(logits.shape, generator=generator)),
                "This is Gaussian noise; the softmax needs Gumbel noise.",
                "这是高斯噪声；softmax 需要的是 Gumbel 噪声。",
            ),
            Mistake(
                lambda logits, generator: gumbel(
                    logits, -torch.log(-torch.log(torch.rand(logits.shape[1], generator=generator)))
                ),
                "All rows get the same noise, so that they are not independent; its shape is (B, vocab_size).",
                "各行用了同一份噪声，因而互不独立；噪声的形状应为 (B, vocab_size)。",
            ),
            Mistake(
                lambda logits, generator: gumbel(
                    logits, -torch.log(-torch.log(torch.rand(len(logits), 1, generator=generator)))
                ),
                "One number a row is added to all its logits, which changes no argmax: each logit needs its own.",
                "一行的所有 logit 加了同一个数，argmax 不会变：每个 logit 都要有自己的噪声。",
            ),
            Mistake(
                lambda logits, generator: gumbel(
                    logits.softmax(-1), -torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))
                ),
                "The noise belongs on the logits, not on the probabilities.",
                "噪声要加在 logit 上，而不是概率上。",
            ),
        ),
        hints=(
            ("Noise of the logits' shape, then argmax.", "与 logits 同形状的噪声，再取 argmax。"),
            (
                "u = torch.rand(logits.shape, generator=generator); add -log(-log u).",
                "u = torch.rand(logits.shape, generator=generator)；加上 -log(-log u)。",
            ),
        ),
    ),
    Exercise(
        id="13.4",
        solution=typical_filter,
        cases=typical_case,
        mistakes=(
            Mistake(
                lambda logits, mass: typical(logits, mass, strict=True),
                "The token with which `mass` is reached belongs to the set.",
                "使概率达到 `mass` 的那个词元也要保留。",
            ),
            Mistake(
                lambda logits, mass: typical(logits, mass, by_probability=True),
                "This is top-p: sort by the distance of the surprise from the entropy, an absolute value.",
                "这是 top-p：应按意外程度与熵的距离（绝对值）排序。",
            ),
            Mistake(
                lambda logits, mass: typical(logits, mass, plain_mean=True),
                "The entropy is the mean surprise by the probabilities, not the plain mean over the vocabulary.",
                "熵是按概率加权的平均意外程度，不是对词表直接求平均。",
            ),
            Mistake(
                lambda logits, mass: logits.masked_fill(~typical(logits, mass).isfinite(), 0.0),
                "Dropped tokens need -inf; a logit of 0 is an ordinary one.",
                "去掉的词元要设为 -inf；0 只是一个普通的 logit。",
            ),
        ),
        hints=(
            (
                "As top-p, with another order: first -log p and H(p), then argsort.",
                "与 top-p 一样，只是次序不同：先算 -log p 和 H(p)，再 argsort。",
            ),
            (
                "A token is dropped if the sum *before* it has reached mass; scatter puts the answer back in order.",
                "若它*之前*的累积和已达到 mass，就去掉它；用 scatter 把结果放回原来的次序。",
            ),
        ),
    ),
    Exercise(
        id="13.5",
        solution=judge_draft,
        cases=draft_case,
        mistakes=(
            Mistake(
                lambda p, q, tokens, u: judged(p, q, tokens, u, p),
                "After a rejection p alone is not right: what q offers too often would be too rare in p - q.",
                "拒绝之后直接从 p 抽是不对的：应从与 max(0, p - q) 成正比的分布里抽。",
            ),
            Mistake(
                lambda p, q, tokens, u: judged(p, q, tokens, u, (p - q).abs()),
                "Only what p has more than q counts: max(0, p - q), not the absolute value.",
                "只算 p 比 q 多出的部分：是 max(0, p - q)，不是绝对值。",
            ),
            Mistake(
                lambda p, q, tokens, u: (judge_draft(p, q, tokens, u)[0], (p - q).clamp(min=0)),
                "The second value must be a distribution: divide by its sum.",
                "第二项必须是一个分布：要除以它的和。",
            ),
            Mistake(
                lambda p, q, tokens, u: (judge_draft(q, p, tokens, u)[0], judge_draft(p, q, tokens, u)[1]),
                "The quotient is upside down: p_k / q_k.",
                "比值颠倒了：应为 p_k / q_k。",
            ),
            Mistake(
                lambda p, q, tokens, u: (
                    u < p.gather(1, tokens[:, None])[:, 0],
                    judge_draft(p, q, tokens, u)[1],
                ),
                "Accepted with the probability p_k alone; it has to be divided by q_k.",
                "接受概率只用了 p_k；还要除以 q_k。",
            ),
        ),
        hints=(
            (
                "p.gather(1, tokens[:, None]) takes each row's drafted token.",
                "p.gather(1, tokens[:, None]) 取出每行草拟词元的概率。",
            ),
            (
                "u < p_k / q_k is the same as u < min(1, p_k / q_k), since u is below 1; clamp(min=0) is max(0, ...).",
                "u < p_k / q_k 等同于 u < min(1, p_k / q_k)，因为 u 小于 1；clamp(min=0) 就是 max(0, ...)。",
            ),
        ),
    ),
)
