"""Exercises of lesson 15, parameter-efficient fine-tuning."""

import torch

from . import Exercise, Mistake


def largest_rank(shapes, budget):
    return budget // sum(d_in + d_out for d_in, d_out in shapes)


def merged_weight(weight, A, B, alpha):
    return weight + alpha / len(A) * (B @ A).T


def prefix_share(q, prefix_keys, keys):
    T, d = q.shape[-2:]
    n = prefix_keys.shape[1]
    scores = q @ torch.cat((prefix_keys, keys), dim=1).mT / d**0.5  # (heads, T, n + T)
    later = torch.ones(T, T).triu(1).bool()
    scores[..., n:] = scores[..., n:].masked_fill(later, -torch.inf)
    return scores.softmax(-1)[..., :n].sum(-1)


def closest_change(change, r):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return u[:, :r] * s[:r] @ v[:r]


# --- mistakes ---


def share_unscaled(q, prefix_keys, keys):
    return prefix_share(q * q.shape[-1] ** 0.5, prefix_keys, keys)


def share_without_mask(q, prefix_keys, keys):
    scores = q @ torch.cat((prefix_keys, keys), dim=1).mT / q.shape[-1] ** 0.5
    return scores.softmax(-1)[..., : prefix_keys.shape[1]].sum(-1)


def share_masked_prefix(q, prefix_keys, keys):
    T, n = q.shape[1], prefix_keys.shape[1]
    scores = q @ torch.cat((prefix_keys, keys), dim=1).mT / q.shape[-1] ** 0.5
    later = torch.ones(T, n + T).triu(1).bool()
    return scores.masked_fill(later, -torch.inf).softmax(-1)[..., :n].sum(-1)


def share_mean(q, prefix_keys, keys):
    return prefix_share(q, prefix_keys, keys) / prefix_keys.shape[1]


def smallest_kept(change, r):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return u[:, -r:] * s[-r:] @ v[-r:]


def one_root_too_few(change, r):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return u[:, :r] * s[:r].sqrt() @ v[:r]


# --- inputs ---


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def rank_case(g):
    shapes = [tuple(sizes(g, (5, 60), (61, 130))) for _ in range(sizes(g, (2, 6))[0])]
    whole, rest, exact = sizes(g, (3, 40), (1, 64), (0, 1))
    return shapes, whole * sum(map(sum, shapes)) + (0 if exact else rest)  # in half of the cases nothing is left


def merge_case(g):
    d, r = sizes(g, (5, 9), (2, 4))
    weight, A, B = (torch.randn(shape, generator=g) for shape in ((d, d), (r, d), (d, r)))
    return weight, A, B, 3.0 * r + sizes(g, (1, 5))[0]


def share_case(g):
    heads, T, head_dim, n = sizes(g, (2, 4), (4, 8), (4, 8), (2, 3))
    return tuple(torch.randn(heads, length, head_dim, generator=g) for length in (T, n, T))


def change_case(g):
    d_in, d_out, r = sizes(g, (6, 9), (10, 14), (2, 3))
    return torch.randn(d_in, d_out, generator=g), r


EXERCISES = (
    Exercise(
        id="15.1",
        solution=largest_rank,
        cases=rank_case,
        mistakes=(
            Mistake(
                lambda shapes, budget: budget // sum(d_in * d_out for d_in, d_out in shapes),
                "in times out counts the full matrices. A LoRA has two thin ones: r x in and out x r.",
                "输入维数乘输出维数，数的是完整的矩阵；LoRA 只有两个瘦长的矩阵：r x in 和 out x r。",
            ),
            Mistake(
                lambda shapes, budget: min(budget // (d_in + d_out) for d_in, d_out in shapes),
                "Each matrix was given the whole budget: they have to share it.",
                "你让每个矩阵都用上了全部预算；预算是大家一起用的。",
            ),
            Mistake(
                lambda shapes, budget: -(-budget // sum(d_in + d_out for d_in, d_out in shapes)),
                "Rounded up: that is over the budget.",
                "向上取整就超出预算了。",
            ),
            Mistake(
                lambda shapes, budget: (budget - 1) // sum(d_in + d_out for d_in, d_out in shapes),
                "A rank that uses up the budget exactly is allowed.",
                "恰好用完预算也是允许的。",
            ),
            Mistake(
                lambda shapes, budget: budget // sum(d_in for d_in, _ in shapes),
                "That counts A only; B has out x r numbers.",
                "这只数了 A；B 还有 out x r 个数。",
            ),
        ),
        hints=(
            ("One unit of rank costs in + out numbers in each matrix.", "秩每加 1，每个矩阵就多 in + out 个数。"),
            ("Sum that over the matrices; // divides and rounds down.", "对所有矩阵求和；// 是向下取整的除法。"),
        ),
    ),
    Exercise(
        id="15.2",
        solution=merged_weight,
        cases=merge_case,
        mistakes=(
            Mistake(
                lambda weight, A, B, alpha: weight + alpha / len(A) * (B @ A),
                "B @ A is (out, in), the weight is (in, out). In a square matrix no error tells you so.",
                "B @ A 的形状是 (out, in)，权重是 (in, out)。方阵不会报错，只会悄悄算错。",
            ),
            Mistake(
                lambda weight, A, B, alpha: weight + (B @ A).T,
                "The factor alpha / r is missing: it acts in training, so it belongs to the change.",
                "漏了 alpha / r：训练时它一直在起作用，合并时也要算进去。",
            ),
            Mistake(
                lambda weight, A, B, alpha: weight + alpha * (B @ A).T,
                "alpha has to be divided by the rank, which is the number of rows of A.",
                "alpha 还要除以秩，也就是 A 的行数。",
            ),
            Mistake(
                lambda weight, A, B, alpha: alpha / len(A) * (B @ A).T,
                "This is the change alone: add it to the weight.",
                "这只是改变量，还要加到权重上。",
            ),
            Mistake(
                lambda weight, A, B, alpha: weight + alpha / A.shape[1] * (B @ A).T,
                "alpha was divided by the width: the rank is the other dimension of A.",
                "你用宽度去除了 alpha：秩是 A 的另一维。",
            ),
        ),
        hints=(
            ("What shape has B @ A, and what shape the weight?", "B @ A 是什么形状？权重又是什么形状？"),
            (
                "weight + (alpha / r) times the transposed product; r is len(A).",
                "weight + (alpha / r) 乘以乘积的转置；r 就是 len(A)。",
            ),
        ),
    ),
    Exercise(
        id="15.3",
        solution=prefix_share,
        cases=share_case,
        mistakes=(
            Mistake(
                share_unscaled,
                "Scores are divided by the root of head_dim before the softmax (lesson 11).",
                "softmax 之前，得分要除以 head_dim 的平方根（第 11 课）。",
            ),
            Mistake(
                share_without_mask,
                "The queries see later tokens: without the causal mask the prefix gets too little.",
                "查询看到了后面的词元：少了因果掩码，前缀分到的份额就偏小。",
            ),
            Mistake(
                share_masked_prefix,
                "The mask hides parts of the prefix, too: every query sees all of it. The triangle begins behind it.",
                "掩码把前缀也遮掉了一部分：每个查询都应看到整个前缀，三角形从前缀之后才开始。",
            ),
            Mistake(
                share_mean,
                "The weights on the prefix are to be summed, not averaged.",
                "前缀上的权重要相加，而不是取平均。",
            ),
        ),
        hints=(
            (
                "Put the two kinds of keys behind one another, take one softmax, and sum a part of it.",
                "把两种键首尾相接，做一次 softmax，再把其中一部分加起来。",
            ),
            (
                "Mask the text's part only: scores[..., n:].masked_fill(torch.ones(T, T).triu(1).bool(), ...).",
                "只遮正文那部分得分：scores[..., n:].masked_fill(torch.ones(T, T).triu(1).bool(), ...)。",
            ),
        ),
    ),
    Exercise(
        id="15.4",
        solution=closest_change,
        cases=change_case,
        mistakes=(
            Mistake(
                smallest_kept,
                "You kept the smallest singular values: the others hold most of the squares.",
                "你留下的是最小的奇异值；平方和主要在大的那些里面。",
            ),
            Mistake(
                one_root_too_few,
                "A factor may take a root of the singular values if the other does, too: the product needs them whole.",
                "可以把奇异值的平方根分给两个因子，但两边都要给：乘积里奇异值应当完整出现一次。",
            ),
            Mistake(
                lambda change, r: torch.cat((change[:r], torch.zeros_like(change[r:]))),
                "Keeping the first r rows has rank r, but it is not the closest: look for directions, not for rows.",
                "只留前 r 行，秩确实是 r，但不是最接近的：要找的是方向，而不是行。",
            ),
            Mistake(
                lambda change, r: closest_change(change, r + 1),
                "One direction too many: the rank is r + 1.",
                "多了一个方向：秩成了 r + 1。",
            ),
        ),
        hints=(
            ("Which tool has shown the rank of a change in section 2?", "第 2 节里，是用什么看出改变量的秩的？"),
            (
                "torch.linalg.svd gives u, s, v with change = u @ diag(s) @ v: keep the first r of each.",
                "torch.linalg.svd 给出 u、s、v，满足 change = u @ diag(s) @ v：各取前 r 个。",
            ),
        ),
    ),
)
