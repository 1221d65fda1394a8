"""Exercises of lesson 17, BERT and named entities."""

import itertools

import torch

from . import Exercise, Mistake


def span_labels(input_ids, starts, lengths):
    places = torch.arange(input_ids.shape[1])
    hidden = (places >= starts[:, None]) & (places < (starts + lengths)[:, None])
    return torch.where(hidden, input_ids, -100)


def label_every_piece(word_ids, tags):
    labels, last = [], None
    for word in word_ids:
        if word is None:
            labels.append(-100)
        else:
            labels.append(tags[word] + tags[word] % 2 if word == last else tags[word])
        last = word
    return labels


def overlap_f1(truth, said):
    def touches(name, others):
        start, end, kind = name
        return any(a < end and start < b and k == kind for a, b, k in others)

    if not truth and not said:
        return 1.0
    precision = sum(touches(name, truth) for name in said) / max(1, len(said))
    recall = sum(touches(name, said) for name in truth) / max(1, len(truth))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def best_path(logits, allowed):
    wall = torch.where(allowed, 0.0, -1e9)
    best, sources = logits[0] + wall[-1], []
    for line in logits[1:]:
        best, source = (best[:, None] + wall[:-1]).max(0)  # (from, to) -> (to,)
        best = best + line
        sources.append(source)
    path = [best.argmax()]
    for source in reversed(sources):
        path.append(source[path[-1]])
    return torch.stack(path[::-1])


# --- the same with one thing done differently ---


def pieces(word_ids, tags, special=-100, further=lambda tag: tag + tag % 2):
    labels, last = [], None
    for word in word_ids:
        labels.append(special if word is None else further(tags[word]) if word == last else tags[word])
        last = word
    return labels


def kinder(truth, said, right=lambda a, b, start, end: a < end and start < b, typed=True, mean="harmonic"):
    def touches(name, others):
        start, end, kind = name
        return any(right(a, b, start, end) and (k == kind or not typed) for a, b, k in others)

    if not truth and not said:
        return 1.0
    precision = sum(touches(name, truth) for name in said) / max(1, len(said))
    recall = sum(touches(name, said) for name in truth) / max(1, len(truth))
    if mean == "precision":
        return precision
    if mean == "said":  # right names count on both sides
        return 2 * precision * len(said) / (len(said) + len(truth))
    if mean == "half":
        return (precision + recall) / 2
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def viterbi(logits, allowed, first=True, turned=False):
    wall = torch.where(allowed, 0.0, -1e9).to(logits)
    steps = wall[:-1].T if turned else wall[:-1]
    best = logits[0] + (wall[-1] if first else 0.0)
    sources = []
    for line in logits[1:]:
        sums = best[:, None] + steps  # (from, to)
        best, source = sums.max(0)
        best = best + line
        sources.append(source)
    path = [best.argmax()]
    for source in reversed(sources):
        path.append(source[path[-1]])
    return torch.stack(path[::-1])


def step_by_step(logits, allowed):
    path, may = [], allowed[-1]
    for line in logits:
        path.append(line.masked_fill(~may, -1e9).argmax())
        may = allowed[path[-1]]
    return torch.stack(path)


def best_ends_only(logits, allowed):
    """The best last tag of the sums, but before it each place's own best sum."""
    best, path = logits[0].masked_fill(~allowed[-1], -1e9), []
    path.append(best.argmax())
    for line in logits[1:]:
        best = (best[:, None] + torch.where(allowed[:-1], 0.0, -1e9)).max(0).values + line
        path.append(best.argmax())
    return torch.stack(path)


# --- inputs ---


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def spans_case(g):
    B, T = sizes(g, (3, 6), (12, 18))
    starts = torch.randint(1, T - 5, (B,), generator=g)
    return torch.randint(1, 90, (B, T), generator=g), starts, torch.randint(2, 5, (B,), generator=g)


def pieces_case(g):
    (n,) = sizes(g, (5, 9))
    counts = [2, 3, *torch.randint(1, 4, (n - 2,), generator=g).tolist()]
    tags = [1, 4, *torch.randint(0, 7, (n - 2,), generator=g).tolist()]
    order = torch.randperm(n, generator=g).tolist()
    word_ids = [word for word, i in enumerate(order) for _ in range(counts[i])]
    return [None, *word_ids, None], [tags[i] for i in order]


KINDS = ("PER", "ORG", "LOC", "WORK")


def names_case(g):
    """Two lists of names: some alike, some with other borders, some of another type, some alone."""
    truth, said = [], []
    for i, fate in enumerate([0, 1, 2, 3, 1, *sizes(g, (0, 4), (0, 4))]):
        start, kind = 10 * i, sizes(g, (0, 3))[0]
        length, less = sizes(g, (3, 5), (1, 2))
        name, other = (start, start + length, KINDS[kind]), KINDS[(kind + 1) % 4]
        truth += [name] if fate != 4 else []
        said += {
            0: [name], 1: [(start + less, start + length + 1, KINDS[kind])], 2: [(start, start + length, other)],
            3: [], 4: [(start, start + 1, other), (start + 1, start + 2, other)],
        }[fate]  # fmt: skip
    truth += [(80, 85, "ORG")]  # one true name, three that were said
    said += [(start, start + 1, "ORG") for start in (80, 82, 84)]
    said += [(start, start + 1, "PER") for start in (100, 101, 103)]
    touching = (truth[0][1], truth[0][1] + 1, truth[0][2])  # right behind the first: they share no word
    return truth, said + [touching]


def path_case(g):
    """Random logits with which each tag alone, a greedy path and the other mistakes give something else."""
    while True:
        T, K = sizes(g, (5, 7), (4, 5))
        allowed = torch.rand(K + 1, K, generator=g) < 0.55
        allowed[torch.arange(K), torch.arange(K)] = True
        allowed[-1, 0], allowed[-1, 1] = True, False
        logits = torch.randn(T, K, generator=g)
        logits[0, 1] += 3
        right = best_path(logits, allowed)
        others = [f(logits, allowed) for f in WRONG_PATHS]
        if all((right != other).any() for other in others):
            return logits, allowed


WRONG_PATHS = (
    lambda logits, allowed: logits.argmax(-1),
    step_by_step,
    lambda logits, allowed: viterbi(logits, allowed, first=False),
    lambda logits, allowed: viterbi(logits, allowed, turned=True),
    best_ends_only,
)


def all_paths(logits, allowed):
    """The best path by trying every one, for tests: `best_path` by brute force."""
    T, K = logits.shape
    fits = lambda path: allowed[-1, path[0]] and all(allowed[i, j] for i, j in itertools.pairwise(path))
    paths = [path for path in itertools.product(range(K), repeat=T) if fits(path)]
    return torch.tensor(max(paths, key=lambda path: sum(logits[t, k].item() for t, k in enumerate(path))))


EXERCISES = (
    Exercise(
        id="17.1",
        solution=span_labels,
        cases=spans_case,
        mistakes=(
            Mistake(
                lambda ids, s, n: span_labels(ids, s, n + 1),
                "One token too many: a run of n tokens from place s ends before place s + n.",
                "多了一个词元：从位置 s 起的 n 个词元，到位置 s + n 之前为止。",
            ),
            Mistake(
                lambda ids, s, n: span_labels(ids, s + 1, n),
                "The run begins at `starts`, that place included; places count from 0.",
                "这一段从 `starts` 那个位置开始，包含它本身；位置从 0 数起。",
            ),
            Mistake(
                lambda ids, s, n: torch.where(span_labels(ids, s, n) == -100, ids, -100),
                "It is the other way round: labels are where tokens are hidden, -100 where they are read.",
                "正好反了：被遮住的位置才有标签，能读到的位置是 -100。",
            ),
            Mistake(
                lambda ids, s, n: span_labels(ids, s, n).clamp(min=0),
                "Places that are not asked get -100; 0 is a token.",
                "不提问的位置要填 -100；0 是一个词元。",
            ),
            Mistake(
                lambda ids, s, n: span_labels(ids.roll(-1, 1), s, n),
                "Nothing is shifted in BERT: the label stands where the token is hidden.",
                "BERT 的标签不错位：词元在哪里被遮住，标签就在哪里。",
            ),
        ),
        hints=(
            (
                "torch.arange(T) gives the places of a row; compare it with starts[:, None].",
                "torch.arange(T) 给出一行的各个位置；把它与 starts[:, None] 比较。",
            ),
            (
                "Hidden are the places >= start and < start + length; then torch.where.",
                "被遮住的是 >= start 且 < start + length 的位置；然后用 torch.where。",
            ),
        ),
    ),
    Exercise(
        id="17.2",
        solution=label_every_piece,
        cases=pieces_case,
        mistakes=(
            Mistake(
                lambda w, t: pieces(w, t, further=lambda tag: -100),
                "That is the lesson's way, first pieces only; here the further pieces get a label, too.",
                "这是课文里只标首个子词的做法；这里其余的子词也要有标签。",
            ),
            Mistake(
                lambda w, t: pieces(w, t, further=lambda tag: tag),
                "A further piece of a B- word begins no new name: its label is the I- of that type.",
                "带 B- 的词，它后面的子词并不另起一个名字：标签应是同类型的 I-。",
            ),
            Mistake(
                lambda w, t: pieces(w, t, special=0),
                "Special tokens get -100 and not O: nobody asks about them.",
                "特殊词元要填 -100，不是 O：没有人问它们。",
            ),
            Mistake(
                lambda w, t: pieces(w, t, further=lambda tag: tag + 1 if tag else 0),
                "An I- is even already and stays what it is; only a B-, which is odd, goes up by one.",
                "I- 本来就是偶数，保持不变；只有奇数的 B- 才加一。",
            ),
            Mistake(
                lambda w, t: [-100 if i is None else (t + [0] * len(w))[k] for k, i in enumerate(w)],
                "Label k went to piece k. It belongs to word word_ids[k].",
                "第 k 个标签给了第 k 个子词；它应当属于第 word_ids[k] 个词。",
            ),
        ),
        hints=(
            ("Remember the word of the piece before.", "记住上一个子词属于哪个词。"),
            (
                "If the word is the same as before: tag + tag % 2 makes an odd number the next even one.",
                "若与上一个子词同属一个词：tag + tag % 2 会把奇数变成下一个偶数。",
            ),
        ),
    ),
    Exercise(
        id="17.3",
        solution=overlap_f1,
        cases=names_case,
        mistakes=(
            Mistake(
                lambda t, s: kinder(t, s, right=lambda a, b, start, end: (a, b) == (start, end)),
                "That is the strict score; here one word in common is enough.",
                "这是严格的评分；这里只要有一个词重合就够了。",
            ),
            Mistake(
                lambda t, s: kinder(t, s, typed=False),
                "The type counts, too.",
                "类型也要一致。",
            ),
            Mistake(
                lambda t, s: kinder(t, s, right=lambda a, b, start, end: a <= end and start <= b),
                "`end` is the word after the last: two names that only touch share no word.",
                "`end` 是最后一个词之后的位置：只是相邻的两个名字没有共同的词。",
            ),
            Mistake(
                lambda t, s: kinder(t, s, mean="precision"),
                "That is the precision alone.",
                "这只是精确率。",
            ),
            Mistake(
                lambda t, s: kinder(t, s, mean="half"),
                "The mean of precision and recall is the harmonic one.",
                "精确率与召回率要取调和平均。",
            ),
            Mistake(
                lambda t, s: kinder(t, s, mean="said"),
                "One true name may be touched by several that were said: count on each side for itself.",
                "一个真名字可能碰到好几个说出来的名字：两边要各数各的。",
            ),
        ),
        hints=(
            (
                "Runs from a to b and from c to d, ends left out, share a word if a < d and c < b.",
                "不含末端的两段 a 到 b 与 c 到 d，当 a < d 且 c < b 时有共同的词。",
            ),
            (
                "Count the said names that touch a true one, and the true names that are touched by a said one: "
                "these are two different numbers.",
                "分别数：碰到某个真名字的预测有多少个，被某个预测碰到的真名字有多少个。这是两个不同的数。",
            ),
        ),
    ),
    Exercise(
        id="17.4",
        solution=best_path,
        cases=path_case,
        mistakes=(
            Mistake(
                WRONG_PATHS[0],
                "Each place has chosen alone; `allowed` was not looked at.",
                "每个位置各选各的，没有用到 `allowed`。",
            ),
            Mistake(
                WRONG_PATHS[1],
                "Each step takes the best that is allowed next; a worse step can lead to a better whole.",
                "每一步都取前一步允许的最好者。可是眼前差一点的一步，整体可能更好。",
            ),
            Mistake(
                WRONG_PATHS[2],
                "The last row of `allowed` says which tags may stand first.",
                "`allowed` 的最后一行说的是哪些标签可以放在最前面。",
            ),
            Mistake(
                WRONG_PATHS[3],
                "allowed[i, j]: from i to j. It was used the wrong way round.",
                "allowed[i, j] 是从 i 到 j，这里用反了。",
            ),
            Mistake(
                WRONG_PATHS[4],
                "The best sum of each place is not on one path. Keep where each came from, and go back from the end.",
                "各个位置上最大的和不一定在同一条路径上。要记住每个值从哪里来，再从末尾往回走。",
            ),
        ),
        hints=(
            (
                "best[j]: the largest sum of a path that ends in tag j. From one place to the next: "
                "(best[:, None] + steps).max(0), plus the logits.",
                "best[j]：以标签 j 结尾的路径的最大和。到下一个位置：(best[:, None] + steps).max(0)，再加上 logits。",
            ),
            (
                "steps is 0 where allowed and -1e9 elsewhere; keep the indices of each max, and follow them back.",
                "steps 在允许处为 0，其余为 -1e9；留下每次 max 的下标，最后沿着它们往回走。",
            ),
        ),
    ),
)
