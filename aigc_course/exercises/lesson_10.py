"""Exercises of lesson 10, language models."""

import math

import torch

from . import Exercise, Mistake


def rows_from_stream(stream, length):
    n = (len(stream) - 1) // length  # the last label needs one token more
    return stream[: n * length].reshape(n, length), stream[1 : n * length + 1].reshape(n, length)


def bits_per_byte(nll, texts):
    return nll.sum() / math.log(2) / sum(len(text.encode()) for text in texts)


def bigram_table(ids, vocab_size, k):
    counts = torch.zeros(vocab_size, vocab_size, dtype=torch.float64)
    counts.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1, dtype=torch.float64), accumulate=True)
    counts += k
    return counts / counts.sum(1, keepdim=True)


def log_probability(text, log_p):
    total = [1.0] + [0.0] * len(text)  # total[i]: all spellings of the first i characters
    for i in range(1, len(text) + 1):
        for token, price in log_p.items():
            if text[:i].endswith(token):
                total[i] += total[i - len(token)] * math.exp(price)
    return math.log(total[-1]) if total[-1] > 0 else -math.inf


def whole_number(g, low, high):
    return int(torch.randint(low, high + 1, (), generator=g))


def stream_case(g):
    n, length = whole_number(g, 3, 6), whole_number(g, 3, 7)
    left_over = (0, 1, length - 1)[whole_number(g, 0, 2)]
    return torch.randint(1000, (n * length + left_over,), generator=g), length


def texts_case(g):
    letters = "abcdefgh éü电影评论"
    b = whole_number(g, 3, 6)
    texts = [
        "".join(letters[i] for i in torch.randint(len(letters), (whole_number(g, 4, 40),), generator=g))
        for _ in range(b)
    ]
    return 5 + 60 * torch.rand(b, generator=g), texts


def table_case(g):
    vocab_size = whole_number(g, 5, 9)
    skewed = torch.arange(vocab_size - 1, 0, -1).float() ** 2  # the last token never comes
    ids = torch.multinomial(skewed, whole_number(g, 30, 60), replacement=True, generator=g)
    return ids, vocab_size, 0.5 + torch.rand((), generator=g).item()


def spelling_case(g):
    text = "".join("abc"[i] for i in torch.randint(3, (whole_number(g, 6, 12),), generator=g))
    pieces = {"a", "b", "c"} | {text[i : i + n] for n in (2, 3) for i in range(0, len(text) - n + 1, 2)}
    prices = torch.rand(len(pieces), generator=g) + 1
    return text, dict(zip(sorted(pieces), (-prices).tolist()))


def labels_that_wrap_round(stream, length):
    inputs = rows_from_stream(stream, length)[0]
    return inputs, inputs.roll(-1, 1)


def pair_counts(ids, vocab_size, k):
    pairs = torch.bincount(vocab_size * ids[:-1] + ids[1:], minlength=vocab_size**2)
    return pairs.reshape(vocab_size, vocab_size).double() + k


def divided_by_one_k(ids, vocab_size, k):
    seen = torch.bincount(ids[:-1], minlength=vocab_size)[:, None]
    return pair_counts(ids, vocab_size, k) / (seen + k)


def divided_by_the_whole_table(ids, vocab_size, k):
    return pair_counts(ids, vocab_size, k) / pair_counts(ids, vocab_size, k).sum()


def log_of_best_spelling(text, log_p):
    best = [0.0] + [-math.inf] * len(text)
    for i in range(1, len(text) + 1):
        for token, price in log_p.items():
            if text[:i].endswith(token):
                best[i] = max(best[i], best[i - len(token)] + price)
    return best[-1]


def log_of_greedy_spelling(text, log_p):
    i, total = 0, 0.0
    while i < len(text):
        token = max((token for token in log_p if text.startswith(token, i)), key=len)
        i, total = i + len(token), total + log_p[token]
    return total


def number_of_spellings(text, log_p):
    return log_probability(text, dict.fromkeys(log_p, 0.0))


EXERCISES = (
    Exercise(
        id="10.1",
        solution=rows_from_stream,
        cases=stream_case,
        mistakes=(
            Mistake(
                lambda s, n: (s[: len(s) // n * n].reshape(-1, n), s[: len(s) // n * n].reshape(-1, n)),
                "The labels are the inputs: the model would only have to copy. They must be one token ahead.",
                "标签就是输入，模型照抄即可。标签应当比输入靠后一个词元。",
            ),
            Mistake(
                lambda s, n: rows_from_stream(s, n)[::-1],
                "Inputs and labels are exchanged: this model would guess the token before.",
                "输入和标签对调了：这样的模型是在猜前一个词元。",
            ),
            Mistake(
                labels_that_wrap_round,
                "The last label of each row wrapped round to the row's first token. Shift the stream, then cut it.",
                "每行最后一个标签绕回了该行的第一个词元。应当先平移整条流，再切成行。",
            ),
            Mistake(
                lambda s, n: (s.unfold(0, n, 1)[:-1], s.unfold(0, n, 1)[1:]),
                "These rows overlap: each begins one token after the one before. Let each begin where that one ended.",
                "这些行互相重叠：每行只比上一行靠后一个词元。下一行应当从上一行结束处开始。",
            ),
        ),
        hints=(
            (
                "How many rows fit, if the last row's last label must exist too?",
                "最后一行的最后一个标签也得存在：一共放得下几行？",
            ),
            (
                "(S - 1) // length rows; labels are stream[1:] cut in the same way.",
                "共 (S - 1) // length 行；标签是 stream[1:]，用同样的方式切。",
            ),
        ),
    ),
    Exercise(
        id="10.2",
        solution=bits_per_byte,
        cases=texts_case,
        mistakes=(
            Mistake(
                lambda nll, texts: nll.sum() / math.log(2) / sum(map(len, texts)),
                "These are bits per character: len counts characters. A text's bytes are text.encode().",
                "这是每字符比特数：len 数的是字符。文本的字节是 text.encode()。",
            ),
            Mistake(
                lambda nll, texts: nll.sum() / sum(len(text.encode()) for text in texts),
                "These are nats. How many bits is a nat?",
                "这还是 nat。一个 nat 等于多少比特？",
            ),
            Mistake(
                lambda nll, texts: nll.sum() * math.log(2) / sum(len(text.encode()) for text in texts),
                "A nat is more than a bit: divide by log 2, do not multiply.",
                "一个 nat 比一个比特多：应当除以 log 2，而不是乘。",
            ),
            Mistake(
                lambda nll, texts: (nll / torch.tensor([len(t.encode()) for t in texts])).mean() / math.log(2),
                "A mean of the texts' ratios counts a short text as much as a long one. Add up first, divide once.",
                "对各文本的比值求平均，短文本和长文本就一样重了。先分别求和，最后只除一次。",
            ),
        ),
        hints=(
            ("Two sums and one division.", "两个和，一次除法。"),
            (
                "Bits are nats / log 2; bytes are len(text.encode()).",
                "比特数等于 nat 数除以 log 2；字节数是 len(text.encode())。",
            ),
        ),
    ),
    Exercise(
        id="10.3",
        solution=bigram_table,
        cases=table_case,
        mistakes=(
            Mistake(
                lambda ids, v, k: bigram_table(ids.flip(0), v, k),
                "Rows and columns are exchanged: the row is the token before, the column the one that comes.",
                "行列颠倒了：行是前一个词元，列是后一个词元。",
            ),
            Mistake(
                lambda ids, v, k: bigram_table(ids, v, 0.0).nan_to_num(1 / v),
                "Nothing was added: pairs that were never seen still have probability 0.",
                "没有加 k：没见过的词对，概率仍是 0。",
            ),
            Mistake(
                divided_by_one_k,
                "The rows do not sum to one: k was added to V counts of the row, so the divisor grows by k V.",
                "每行之和不等于 1：一行里有 V 个计数都加了 k，所以分母要加 kV。",
            ),
            Mistake(
                divided_by_the_whole_table,
                "The whole table sums to one. That is p(before, after); wanted is p(after | before), row by row.",
                "你让整张表之和为 1，得到的是 p(前, 后)；要的是逐行归一的 p(后 | 前)。",
            ),
        ),
        hints=(
            (
                "Count pairs (ids[:-1], ids[1:]) into a V by V table first.",
                "先把词对 (ids[:-1], ids[1:]) 数进一张 V×V 的表。",
            ),
            (
                "torch.bincount(V * before + after, minlength=V * V) counts pairs; then add k and divide by row sums.",
                "torch.bincount(V * 前 + 后, minlength=V * V) 可以数词对；然后加 k，再除以每行之和。",
            ),
        ),
    ),
    Exercise(
        id="10.4",
        solution=log_probability,
        cases=spelling_case,
        mistakes=(
            Mistake(
                log_of_best_spelling,
                "This is the best spelling alone. The probability of the text is the sum over all of them.",
                "这只是概率最大的那一种拼法。文本的概率是所有拼法之和。",
            ),
            Mistake(
                log_of_greedy_spelling,
                "One spelling, always the longest token first. The others have probability too.",
                "这是每次取最长词元得到的一种拼法。其他拼法也有概率。",
            ),
            Mistake(
                number_of_spellings,
                "This counts the spellings: each should weigh the product of its tokens' probabilities.",
                "这是在数有多少种拼法：每种拼法的权重应当是各词元概率的乘积。",
            ),
            Mistake(
                lambda text, log_p: math.exp(log_probability(text, log_p)),
                "This is the probability; wanted is its logarithm.",
                "这是概率本身；要的是它的对数。",
            ),
        ),
        hints=(
            (
                "The last token of a spelling of text[:i] is some token that text[:i] ends with.",
                "text[:i] 的任何一种拼法，最后一个词元必是 text[:i] 的某个结尾。",
            ),
            (
                "total[i] = sum over tokens that text[:i] ends with of total[i - len(token)] * exp(log_p[token]).",
                "total[i] 等于对 text[:i] 的每个结尾词元，把 total[i - len(token)] * exp(log_p[token]) 加起来。",
            ),
        ),
    ),
)
