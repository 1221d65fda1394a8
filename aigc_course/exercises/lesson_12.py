"""Exercises of lesson 12, a GPT from scratch."""

import torch
import torch.nn.functional as F

from . import Exercise, Mistake


def gpt_parameters(vocab_size, context_length, n_layer, n_embd, widening, tied):
    d = n_embd
    attention = 4 * d * d + 4 * d  # queries, keys, values, projection
    mlp = 2 * widening * d * d + widening * d + d
    norms = 4 * d  # two a block, a scale and a bias each
    tables = (vocab_size + context_length) * d
    return tables + n_layer * (attention + mlp + norms) + 2 * d + (0 if tied else vocab_size * d)


def answer_labels(input_ids, question_lengths):
    labels = torch.full_like(input_ids, -100)
    labels[:, :-1] = input_ids[:, 1:]
    places = torch.arange(input_ids.shape[1])
    return labels.masked_fill(places < question_lengths[:, None] - 1, -100)


def stable_decay(fraction, warmup, decay):
    return torch.minimum(fraction / warmup, (1 - fraction) / decay).clamp(max=1.0)


def modern_block(x, qkv, attention_out, widen, mlp_out, heads):
    return block(x, qkv, attention_out, widen, mlp_out, heads)


# --- the last one with one thing done differently ---


def norm(x):
    return F.rms_norm(x, x.shape[-1:])


def block(
    x, qkv, attention_out, widen, mlp_out, heads, causal=True, lengths="each head", bend=lambda u: F.relu(u).square(),
    order="pre", keep=1.0,
):  # fmt: skip
    B, T, d = x.shape
    q, k, v = (norm(x) @ qkv.T).chunk(3, dim=-1)  # (B, T, d) each
    if lengths == "whole width":
        q, k = norm(q), norm(k)
    q, k, v = (y.view(B, T, heads, d // heads).transpose(1, 2) for y in (q, k, v))  # (B, heads, T, head_dim)
    if lengths == "each head":
        q, k = norm(q), norm(k)
    o = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(B, T, d)
    after = keep * x + o @ attention_out.T
    read = {"pre": norm(after), "parallel": norm(x), "bare": after}[order]
    return keep * after + bend(read @ widen.T) @ mlp_out.T


def changed(**options):
    return lambda x, qkv, attention_out, widen, mlp_out, heads: block(
        x, qkv, attention_out, widen, mlp_out, heads, **options
    )


# --- inputs ---


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def parameters_case(g):
    vocab_size, context_length, n_layer, n_embd, widening, tied = sizes(
        g, (50, 900), (16, 300), (1, 9), (8, 99), (1, 3), (0, 1)
    )
    return vocab_size, context_length, n_layer, n_embd, 2 * widening, bool(tied)


def labels_case(g):
    B, T = sizes(g, (2, 5), (6, 10))
    return torch.randint(1, 90, (B, T), generator=g), torch.randint(2, T, (B,), generator=g)


def schedule_case(g):
    warmup, decay = (0.05 + 0.2 * torch.rand(2, generator=g)).tolist()
    return torch.cat((torch.rand(30, generator=g), torch.tensor([0.0, 1.0]))), warmup, decay + 0.15


def block_case(g):
    B, T, heads, head_dim = sizes(g, (1, 3), (4, 7), (2, 3), (2, 4))
    d = heads * head_dim
    shapes = ((3 * d, d), (d, d), (4 * d, d), (d, 4 * d))
    matrices = [torch.randn(shape, generator=g) * 1.5 / d**0.5 for shape in shapes]
    return torch.randn(B, T, d, generator=g) * 2 + 0.5, *matrices, heads


EXERCISES = (
    Exercise(
        id="12.1",
        solution=gpt_parameters,
        cases=parameters_case,
        mistakes=(
            Mistake(
                lambda v, t, n, d, w, tied: gpt_parameters(v, t, n, d, w, not tied),
                "The head: if it is tied it costs nothing, if it is not it is one more table.",
                "输出头：共享权重时不花参数，不共享时就是再多一张表。",
            ),
            Mistake(
                lambda v, t, n, d, w, tied: gpt_parameters(v, 0, n, d, w, tied),
                "The table of places is missing.",
                "漏了位置表。",
            ),
            Mistake(
                lambda v, t, n, d, w, tied: gpt_parameters(v, t, n, d, w, tied) - 2 * d,
                "One norm is missing: the last one, after all blocks.",
                "少了一个归一化：所有块之后的最后一个。",
            ),
            Mistake(
                lambda v, t, n, d, w, tied: gpt_parameters(v, t, n, d, w, tied) - n * (w + 5) * d,
                "The linear layers have biases, too.",
                "线性层也有偏置。",
            ),
            Mistake(
                lambda v, t, n, d, w, tied: gpt_parameters(v, t, n, d, w, tied) - n * 4 * d,
                "The two norms of a block have a scale and a bias of width d each.",
                "每个块里有两个归一化，各有宽度为 d 的缩放和偏置。",
            ),
        ),
        hints=(
            ("One block first; then times n_layer, and the tables.", "先数一个块，再乘以 n_layer，最后加上各张表。"),
            (
                "The MLP: widening * d * d + widening * d up, the same weights and d biases down.",
                "MLP：变宽一步有 widening * d * d + widening * d 个，变回一步有同样多的权重和 d 个偏置。",
            ),
        ),
    ),
    Exercise(
        id="12.2",
        solution=answer_labels,
        cases=labels_case,
        mistakes=(
            Mistake(
                lambda ids, q: ids.masked_fill(torch.arange(ids.shape[1]) < q[:, None], -100),
                "The labels are not shifted: at each place stands the token that is read there.",
                "标签没有错开一位：每个位置上放的正是在那里读到的词元。",
            ),
            Mistake(
                lambda ids, q: answer_labels(ids, q + 1),
                "The answer's first token is lost: it is asked for at the question's last place.",
                "答案的第一个词元丢了：应当在问题的最后一个位置上问它。",
            ),
            Mistake(
                lambda ids, q: answer_labels(ids, q - 1),
                "One token of the question is scored, too: its last one.",
                "问题的最后一个词元也被计分了。",
            ),
            Mistake(
                lambda ids, q: ids.roll(-1, 1).masked_fill(torch.arange(ids.shape[1]) < q[:, None] - 1, -100),
                "The last place is asked for the row's first token: `roll` goes round in a circle.",
                "最后一个位置被要求预测该行的第一个词元：`roll` 是循环移位。",
            ),
            Mistake(
                lambda ids, q: answer_labels(ids, q).clamp(min=0),
                "Places that do not count get -100; 0 is a token.",
                "不计分的位置要填 -100；0 是一个词元。",
            ),
        ),
        hints=(
            (
                "Shift first, as if the question counted. Which places must then be blanked?",
                "先不管问题部分，把标签错开一位，再想哪些位置要抹掉。",
            ),
            (
                "Place t asks for token t + 1, which is part of the question while t + 1 < length.",
                "位置 t 问的是第 t + 1 个词元；当 t + 1 < 问题长度时，它还属于问题。",
            ),
        ),
    ),
    Exercise(
        id="12.3",
        solution=stable_decay,
        cases=schedule_case,
        mistakes=(
            Mistake(
                lambda f, warmup, decay: torch.minimum(f / warmup, (1 - f) / (1 - warmup)),
                "The middle stage is missing: the factor stays 1 until the last `decay` of the training.",
                "少了中间一段：在最后 `decay` 那一段之前，系数一直是 1。",
            ),
            Mistake(
                lambda f, warmup, decay: stable_decay(f, warmup, 1 - decay),
                "`decay` is the length of the last stage, not the place where it begins.",
                "`decay` 是最后一段的长度，不是它的起点。",
            ),
            Mistake(
                lambda f, warmup, decay: ((1 - f) / decay).clamp(max=1.0),
                "The warm-up is missing.",
                "漏了预热。",
            ),
            Mistake(
                lambda f, warmup, decay: (f / warmup).clamp(max=1.0),
                "The factor never comes down again.",
                "系数没有再降下来。",
            ),
        ),
        hints=(
            ("Three straight lines; the factor is the lowest of them.", "三条直线，系数取其中最低的一条。"),
            (
                "The last line reaches 0 at fraction 1 and 1 at fraction 1 - decay.",
                "最后一条在进度为 1 时是 0，在进度为 1 - decay 时是 1。",
            ),
        ),
    ),
    Exercise(
        id="12.4",
        solution=modern_block,
        cases=block_case,
        mistakes=(
            Mistake(
                changed(causal=False),
                "It sees the future: is_causal=True.",
                "它看到了未来：要 is_causal=True。",
            ),
            Mistake(
                changed(lengths="none"),
                "Queries and keys still have any length; bring each to RMS 1.",
                "查询和键的长度还是任意的；要把每个都归一到 RMS 为 1。",
            ),
            Mistake(
                changed(lengths="whole width"),
                "Queries and keys are normalised over all heads together; each head needs RMS 1 by itself.",
                "查询和键是在所有头上一起归一化的；应当每个头各自归一到 RMS 为 1。",
            ),
            Mistake(changed(bend=F.relu), "ReLU, but not squared.", "用了 ReLU，但没有平方。"),
            Mistake(
                changed(keep=0.0),
                "Nothing is added to what came in: the residual connections are missing.",
                "没有加到输入上：漏了残差连接。",
            ),
            Mistake(
                changed(order="parallel"),
                "The MLP reads what came into the block; it should read what attention left.",
                "MLP 读的是进入这个块的内容；它应当读注意力之后的结果。",
            ),
            Mistake(
                changed(order="bare"),
                "The MLP needs a norm of its own before it.",
                "MLP 之前也要有它自己的归一化。",
            ),
        ),
        hints=(
            (
                "Two lines of the lesson's Block; write attention and MLP as functions first.",
                "就是课文里 Block 的两行；先把注意力和 MLP 写成函数。",
            ),
            (
                "F.rms_norm(q, q.shape[-1:]) after the split into (B, heads, T, head_dim); then PyTorch's attention.",
                "切成 (B, heads, T, head_dim) 之后再 F.rms_norm(q, q.shape[-1:])，然后调用库里的注意力。",
            ),
        ),
    ),
)
