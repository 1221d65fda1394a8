"""Exercises of lesson 14, fine-tuning GPT-2."""

import torch

from . import Exercise, Mistake

IGNORED = -100


def causal_labels(input_ids, attention_mask):
    first = attention_mask.cumsum(1) == 1  # the first real token of each row, and the padding behind a single one
    return input_ids.masked_fill((attention_mask == 0) | first, IGNORED)


def corpus_perplexity(losses, counts):
    return ((losses * counts).sum() / counts.sum()).exp()


def packed_mask(lengths):
    owner = torch.repeat_interleave(torch.tensor(lengths))  # (T,): 0 0 0 1 1 2 ...
    return (owner[:, None] == owner).tril()


def early_stop(scores, patience):
    best = 0
    for i in range(1, len(scores)):
        if scores[i] < scores[best]:
            best = i
        elif i - best >= patience:
            return best, i + 1
    return best, len(scores)


def length_batches(lengths, batch_size, generator):
    batches = lengths.argsort().split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


# --- wrong answers that take more than a line ---


def labels_by_token(input_ids, attention_mask):
    padding = input_ids[attention_mask == 0][0]
    first = attention_mask.cumsum(1) == 1
    return input_ids.masked_fill((input_ids == padding) | first, IGNORED)


def labels_of_column_one(input_ids, attention_mask):
    labels = input_ids.masked_fill(attention_mask == 0, IGNORED)
    labels[:, 0] = IGNORED
    return labels


def labels_shifted(input_ids, attention_mask):
    labels = causal_labels(input_ids, attention_mask).roll(-1, 1)
    labels[:, -1] = IGNORED
    return labels


def stop_on_all_bad(scores, patience):
    best = bad = 0
    for i in range(1, len(scores)):
        if scores[i] < scores[best]:
            best = i
        else:
            bad += 1
            if bad == patience:
                return best, i + 1
    return best, len(scores)


def stop_at_first_rise(scores, patience):
    best = min(range(len(scores)), key=lambda i: scores[i])
    for i in range(1, len(scores)):
        if scores[i] >= scores[i - 1]:
            return min(range(i + 1), key=lambda j: scores[j]), i + 1
    return best, len(scores)


def stop_with_the_last(scores, patience):
    made = early_stop(scores, patience)[1]
    return made - 1, made


def stop_one_late(scores, patience):
    return early_stop(scores, patience + 1)


def batches_of_shuffled_rows(lengths, batch_size, generator):
    return list(torch.randperm(len(lengths), generator=generator).split(batch_size))


def batches_without_the_rest(lengths, batch_size, generator):
    return [batch for batch in length_batches(lengths, batch_size, generator) if len(batch) == batch_size]


# --- inputs ---


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def labels_case(g):
    B, T, padding = sizes(g, (4, 6), (7, 10), (3, 9))
    input_ids = torch.randint(10, (B, T), generator=g)
    mask = torch.zeros(B, T, dtype=torch.int64)
    for i in range(B):
        length, left = sizes(g, (3, T - 2), (0, 1))
        left = i if i < 2 else left  # row 0 is padded on the right, row 1 on the left
        mask[i, T - length if left else 0 : T if left else length] = 1
        input_ids[i, T - 2 if left else 1] = padding  # the padding's number is a token of the text as well
    input_ids[mask == 0] = padding
    return input_ids, mask


def perplexity_case(g):
    (M,) = sizes(g, (4, 9))
    counts = torch.randint(5, 400, (M,), generator=g)
    counts[0], counts[1] = 500, 5
    losses = 1 + 3 * torch.rand(M, generator=g)
    losses[0], losses[1] = 1.0, 5.0
    return losses, counts


def lengths_case(g):
    return (torch.randint(2, 6, sizes(g, (3, 5)), generator=g).tolist(),)


def scores_case(g):
    (patience, before) = sizes(g, (2, 4), (3, 6))
    falling = [5.0 - 0.3 * i for i in range(before)]
    lowest = falling[-1] - 0.5
    bump = [falling[1] + 0.01, falling[1] + 0.02] if patience > 2 else [falling[1] + 0.01]  # shorter than patience
    noise = (0.2 + torch.rand(patience + 5, generator=g)).tolist()
    scores = [*falling[:2], *bump, *falling[2:], lowest, lowest, *(lowest + x for x in noise)]
    return scores[: before + len(bump) + 2 + sizes(g, (1, patience + 5))[0]], patience


def batches_case(g):
    N, batch_size = sizes(g, (40, 60), (3, 5))
    N += N % batch_size == 0
    return (
        torch.randperm(3 * N, generator=g)[:N] + 1,
        batch_size,
        torch.Generator().manual_seed(sizes(g, (0, 2**30))[0]),
    )


def verify_batches(function, g):
    lengths, batch_size, own = batches_case(g)
    twin = torch.Generator().set_state(own.get_state())
    found = function(lengths.clone(), batch_size, own)
    if not isinstance(found, list | tuple) or not all(isinstance(b, torch.Tensor) and b.ndim == 1 for b in found):
        return "Return a list of tensors of row numbers.", "请返回由行号张量组成的列表。"
    if not found or sorted(torch.cat(list(found)).tolist()) != list(range(len(lengths))):
        return "Every row must come exactly once.", "每一行必须恰好出现一次。"
    if sorted(map(len, found))[1:] != [batch_size] * (len(found) - 1) or max(map(len, found)) > batch_size:
        return "All batches but one have batch_size rows.", "除一批以外，每批都有 batch_size 行。"
    places = lambda batches: sum(len(batch) * lengths[batch].max().item() for batch in batches)
    fewest = places(lengths.argsort().split(batch_size))
    if places(found) > 1.1 * fewest:
        return (
            f"{places(found)} places with padding, {fewest} would do: put neighbours in length together.",
            f"连同填充共 {places(found)} 个位置，{fewest} 个就够了：把长度相近的放在一起。",
        )
    longest = [lengths[batch].max().item() for batch in found]
    if longest in (sorted(longest), sorted(longest, reverse=True)):
        return "From short to long: the order of the batches must be random.", "由短到长：各批的次序应当随机。"
    again = function(lengths.clone(), batch_size, torch.Generator().manual_seed(sizes(g, (0, 2**30))[0]))
    if [batch.tolist() for batch in again] == [batch.tolist() for batch in found]:
        return "The same order every time: does it come from the generator?", "每次次序都一样：用的是 generator 吗？"
    again = function(lengths.clone(), batch_size, twin)
    if [batch.tolist() for batch in again] != [batch.tolist() for batch in found]:
        return (
            "The same generator gave another order: draw from it and from nothing else.",
            "同一个 generator 两次给出的次序不同：只能从它抽取。",
        )


EXERCISES = (
    Exercise(
        id="14.1",
        solution=causal_labels,
        cases=labels_case,
        mistakes=(
            Mistake(
                lambda ids, mask: ids.masked_fill(mask.cumsum(1) == 1, IGNORED),
                "The padding is still in the loss.",
                "填充还在损失里。",
            ),
            Mistake(
                lambda ids, mask: ids.masked_fill(mask == 0, IGNORED),
                "The first real token of each row is still in the loss: nothing stands before it.",
                "每行第一个真实词元还在损失里：它前面什么也没有。",
            ),
            Mistake(
                labels_by_token,
                "Where padding is, says the mask. The same number may be a real token, such as the end token.",
                "哪里是填充要看掩码。同一个编号也可能是真正的词元，例如结束词元。",
            ),
            Mistake(
                labels_of_column_one,
                "With padding on the left a row begins later than at column 0.",
                "填充在左边时，一行的开头不在第 0 列。",
            ),
            Mistake(labels_shifted, "Do not shift: the model does it.", "不要移位：模型会自己移。"),
        ),
        hints=(
            (
                "Two kinds of places are left out: padding, and the first real token.",
                "两种位置不计：填充，以及第一个真实词元。",
            ),
            (
                "attention_mask.cumsum(1) counts the real tokens so far.",
                "attention_mask.cumsum(1) 数出到目前为止的真实词元。",
            ),
            ("masked_fill(condition, -100), conditions joined with |.", "masked_fill(条件, -100)，条件用 | 连接。"),
        ),
    ),
    Exercise(
        id="14.2",
        solution=corpus_perplexity,
        cases=perplexity_case,
        mistakes=(
            Mistake(
                lambda losses, counts: losses.mean().exp(),
                "A batch of 5 tokens counts as much as one of 500.",
                "5 个词元的一批和 500 个词元的一批算得一样重。",
            ),
            Mistake(
                lambda losses, counts: losses.exp().mean(),
                "A mean of perplexities is no perplexity.",
                "困惑度的平均不是困惑度。",
            ),
            Mistake(
                lambda losses, counts: (losses.exp() * counts).sum() / counts.sum(),
                "The exponential comes last: first the nats a token.",
                "指数最后才取：先算每词元多少奈特。",
            ),
            Mistake(
                lambda losses, counts: (losses.sum() / counts.sum()).exp(),
                "The losses are means: how many nats does a whole batch have?",
                "这些损失是平均值：一整批共有多少奈特？",
            ),
        ),
        hints=(
            ("How many nats has each batch in all?", "每批总共有多少奈特？"),
            ("Equation (14.2).", "式 (14.2)。"),
        ),
    ),
    Exercise(
        id="14.3",
        solution=packed_mask,
        cases=lengths_case,
        mistakes=(
            Mistake(
                lambda lengths: torch.ones(sum(lengths), sum(lengths)).tril().bool(),
                "A row still sees the rows before it.",
                "一行还看得见前面的各行。",
            ),
            Mistake(
                lambda lengths: torch.block_diag(*[torch.ones(n, n) for n in lengths]).bool(),
                "A token sees what comes after it in its row.",
                "词元看得见本行中后面的词元。",
            ),
            Mistake(
                lambda lengths: packed_mask(lengths).tril(-1),
                "A token may look at itself, and the first of a row has nothing else.",
                "词元可以看自己；一行的第一个词元也只有自己可看。",
            ),
            Mistake(
                lambda lengths: packed_mask(lengths).T,
                "Rows are those who look, columns what is looked at.",
                "行是看的一方，列是被看的一方。",
            ),
        ),
        hints=(
            ("Give every token the number of its row.", "给每个词元标上它属于第几行。"),
            (
                "torch.repeat_interleave(torch.tensor(lengths)) does that.",
                "torch.repeat_interleave(torch.tensor(lengths)) 就能做到。",
            ),
            ("Equal numbers, and .tril().", "编号相同，再加 .tril()。"),
        ),
    ),
    Exercise(
        id="14.4",
        solution=early_stop,
        cases=scores_case,
        mistakes=(
            Mistake(
                stop_on_all_bad,
                "Patience begins anew with every better score.",
                "每出现更好的分数，耐心都要重新计数。",
            ),
            Mistake(
                stop_at_first_rise,
                "One worse score is no reason to stop: what is `patience` for?",
                "一次变差还不该停：patience 是做什么用的？",
            ),
            Mistake(
                stop_with_the_last,
                "The weights to keep are those of the best score, not the last ones.",
                "要留下的是分数最好时的权重，而不是最后的。",
            ),
            Mistake(
                stop_one_late,
                "It waits for one evaluation too many.",
                "多等了一次评估。",
            ),
        ),
        hints=(
            ("Remember where the best score was.", "记住最好的分数在哪里。"),
            (
                "Stop when i - best reaches patience; an equal score is not better.",
                "i - best 达到 patience 就停；分数相等不算更好。",
            ),
        ),
    ),
    Exercise(
        id="14.5",
        solution=length_batches,
        cases=batches_case,
        verify=verify_batches,
        mistakes=(
            Mistake(
                batches_of_shuffled_rows,
                "Long and short rows share a batch, and so it is mostly padding.",
                "长行与短行同在一批，于是大半是填充。",
            ),
            Mistake(
                lambda lengths, batch_size, generator: list(lengths.argsort().split(batch_size)),
                "First all short texts, at the end all long ones: the model sees them in that order.",
                "先是全部短文，最后是全部长文：模型会按这个次序看到它们。",
            ),
            Mistake(
                batches_without_the_rest,
                "The last rows are never trained on.",
                "余下的几行永远训练不到。",
            ),
            Mistake(
                lambda lengths, batch_size, generator: length_batches(
                    lengths, batch_size, torch.Generator().manual_seed(0)
                ),
                "Every epoch has the same order: use the generator that is given.",
                "每一轮次序都一样：请用给定的 generator。",
            ),
            Mistake(
                lambda lengths, batch_size, generator: length_batches(lengths, batch_size, None),
                "Random, but not drawn from `generator`: nobody could repeat the run.",
                "确实随机，却不是从 `generator` 抽取的：这次训练谁也无法重现。",
            ),
        ),
        hints=(
            ("Sort the rows, cut, and shuffle the pieces.", "先给各行排序，再切开，然后打乱切出的各段。"),
            ("argsort, split, and torch.randperm over the batches.", "argsort、split，以及对各批用 torch.randperm。"),
        ),
    ),
)
