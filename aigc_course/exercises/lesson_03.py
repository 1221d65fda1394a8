"""Exercises of lesson 03, generalisation."""

import math

import torch

from . import Exercise, Mistake


def drop(x, keep, p):
    return x * keep / (1 - p), x


def stop_at(losses, patience):
    best = 0
    for i, loss in enumerate(losses):
        if loss < losses[best]:
            best = i
        elif i - best == patience:
            return i, best
    return len(losses) - 1, best


def matching_steps(curvature, lr, omega):
    # 1 - (1 - lr * curvature) ** t = curvature / (curvature + omega), solved for t
    return torch.log(omega / (curvature + omega)) / torch.log(1 - lr * curvature)


def move(images, down, right):
    batch, height, width = images.shape
    rows = torch.arange(height) - down[:, None]  # (B, H): the row from which each new row comes
    columns = torch.arange(width) - right[:, None]  # (B, W)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    return images[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]] * inside


def best_of(K, n, a):
    chance = [math.comb(n, s) * a**s * (1 - a) ** (n - s) for s in range(n + 1)]  # of s right answers
    below, expected = 0.0, 0.0
    for s in range(1, n + 1):
        below += chance[s - 1]  # one candidate has fewer than s
        expected += 1 - below**K
    return expected / n


# --- wrong answers that take more than a line ---


def drop_always(x, keep, p):
    return x * keep / (1 - p), x * keep / (1 - p)


def drop_without_scale(x, keep, p):
    return x * keep, x


def drop_divided_by_p(x, keep, p):
    return x * keep / p, x


def drop_as_published(x, keep, p):
    return x * keep, x * (1 - p)


def drop_the_kept(x, keep, p):
    return drop(x, ~keep, p)


def stop_at_the_lowest(losses, patience):
    return len(losses) - 1, losses.index(min(losses))


def stop_and_keep_the_last(losses, patience):
    end, _ = stop_at(losses, patience)
    return end, end


def stop_too_late(losses, patience):
    return stop_at(losses, patience + 1)


def stop_when_it_rises(losses, patience):
    best, rises = 0, 0
    for i in range(1, len(losses)):
        rises = rises + 1 if losses[i] > losses[i - 1] else 0
        best = i if losses[i] < losses[best] else best
        if rises == patience:
            return i, best
    return len(losses) - 1, best


def stop_counting_ties(losses, patience):
    best = 0
    for i, loss in enumerate(losses):
        if loss <= losses[best]:
            best = i
        elif i - best == patience:
            return i, best
    return len(losses) - 1, best


def steps_by_the_rule(curvature, lr, omega):
    return torch.full_like(curvature, 1 / (lr * omega))


def steps_to_the_rest(curvature, lr, omega):
    return torch.log(curvature / (curvature + omega)) / torch.log(1 - lr * curvature)


def steps_of_a_flow(curvature, lr, omega):
    return torch.log(1 + curvature / omega) / (lr * curvature)


def steps_negative(curvature, lr, omega):
    return -matching_steps(curvature, lr, omega)


def move_around(images, down, right):
    moves = zip(images, down.tolist(), right.tolist())
    return torch.stack([image.roll((a, b), (0, 1)) for image, a, b in moves])


def move_all_alike(images, down, right):
    return move(images, down[:1].expand_as(down), right[:1].expand_as(right))


def best_of_one(K, n, a):
    return best_of(1, n, a)


def best_of_bound(K, n, a):
    return a + math.sqrt(math.log(K) / (2 * n))


def best_of_count(K, n, a):
    return best_of(K, n, a) * n


def best_of_at_most(K, n, a):
    chance = [math.comb(n, s) * a**s * (1 - a) ** (n - s) for s in range(n + 1)]
    return sum(1 - sum(chance[: s + 1]) ** K for s in range(1, n + 1)) / n


def best_of_all(K, n, a):
    chance = [math.comb(n, s) * a**s * (1 - a) ** (n - s) for s in range(n + 1)]
    return sum(sum(chance[s:]) ** K for s in range(1, n + 1)) / n


# --- inputs ---


def uniform(g, low, high, *shape):
    return low + (high - low) * torch.rand(*shape, generator=g)


def integer(g, low, high):
    return int(torch.randint(low, high, (), generator=g))


def drop_case(g):
    shape, p = (integer(g, 4, 8), integer(g, 4, 8)), uniform(g, 0.15, 0.4, ()).item()
    x, keep = torch.randn(*shape, generator=g), torch.rand(*shape, generator=g) >= p
    keep[0, :2] = torch.tensor([True, False])
    return x, keep, p


def losses_case(g):
    patience = integer(g, 2, 4)
    falls = [2.0 - 0.2 * i + uniform(g, -0.01, 0.01, ()).item() for i in range(integer(g, 2, 6))]
    bounce = [falls[-1] + 0.3, falls[-1]]  # up, then down to the lowest value again, but not below it
    rise = [falls[-1] + 0.2 + 0.1 * (i % 2) for i in range(patience)]
    late = [falls[-1] - 0.5, falls[-1] + 0.1]  # lower than ever, but only after giving up
    return falls[:-1] + [falls[-1] + 0.05, falls[-1], *bounce, *rise, *late], patience


def steps_case(g):
    return uniform(g, 0.3, 3.0, integer(g, 3, 7)), uniform(g, 0.1, 0.3, ()).item(), uniform(g, 0.1, 0.8, ()).item()


def move_case(g):
    batch, height, width = integer(g, 3, 6), integer(g, 5, 8), integer(g, 5, 8)
    down, right = torch.randint(1, 4, (2, batch), generator=g) * torch.tensor([[1], [-1]])
    down[1], right[1] = -1, 3
    return 0.1 + torch.rand(batch, height, width, generator=g), down, right


def best_case(g):
    return integer(g, 2, 30), integer(g, 10, 60), uniform(g, 0.3, 0.8, ()).item()


EXERCISES = (
    Exercise(
        id="03.1",
        solution=drop,
        cases=drop_case,
        mistakes=(
            Mistake(
                drop_always,
                "In evaluation nothing is dropped and nothing is scaled.",
                "评估时什么也不丢，也不缩放。",
            ),
            Mistake(
                drop_without_scale,
                "The mean has become smaller: units that stay must be made larger.",
                "均值变小了：留下的单元要放大。",
            ),
            Mistake(
                drop_divided_by_p,
                "p is the probability of being dropped. Divide by the probability of staying.",
                "p 是被丢掉的概率；应除以留下的概率。",
            ),
            Mistake(
                drop_as_published,
                "That is the original paper's version, which scales at test time; inverted dropout scales in training.",
                "这是原论文的写法，在测试时缩放；反向 dropout 在训练时缩放。",
            ),
            Mistake(
                drop_the_kept,
                "keep says which units stay, not which go.",
                "keep 标出的是留下的单元，不是丢掉的。",
            ),
        ),
        hints=(
            ("Which two things does (03.9) say about the mean and the factor?", "式 (03.9) 对均值和倍数说了什么？"),
            ("x * keep sets the dropped units to 0; then divide.", "x * keep 把丢掉的单元变为 0；然后再除。"),
        ),
    ),
    Exercise(
        id="03.2",
        solution=stop_at,
        cases=losses_case,
        mistakes=(
            Mistake(
                stop_at_the_lowest,
                "That looks at the whole list. A training that has been given up never gets to the later losses.",
                "这看了整个列表；训练一旦停止，就不会有后面的损失了。",
            ),
            Mistake(
                stop_and_keep_the_last,
                "The network that is kept is the one with the lowest loss so far, not the last one.",
                "保留的应是到那时损失最低的网络，不是最后一个。",
            ),
            Mistake(
                stop_too_late,
                "One measurement too late: it gives up at the patience-th measurement without a new lowest value.",
                "晚了一次：连续第 patience 次没有新低时就应停止。",
            ),
            Mistake(
                stop_when_it_rises,
                "Compare with the lowest loss so far, not with the one before.",
                "要与迄今最低的损失比，而不是与前一个比。",
            ),
            Mistake(
                stop_counting_ties,
                "A loss that equals the lowest one has not fallen below it: the count goes on.",
                "与最低值相等，并没有低于它：计数要继续。",
            ),
        ),
        hints=(
            (
                "Walk through the list once and remember where the lowest loss was.",
                "把列表走一遍，记住最低损失出现在哪里。",
            ),
            (
                "It ends at index i as soon as i - best equals patience.",
                "一旦 i - best 等于 patience，就在下标 i 处停止。",
            ),
        ),
    ),
    Exercise(
        id="03.3",
        solution=matching_steps,
        cases=steps_case,
        mistakes=(
            Mistake(
                steps_by_the_rule,
                "That is the rough rule, the same for all directions. Set (03.7) and (03.3) equal and solve for t.",
                "这是粗略的经验式，对各方向都一样；请令 (03.7) 与 (03.3) 相等，解出 t。",
            ),
            Mistake(
                steps_to_the_rest,
                "The share that is still missing is omega / (curvature + omega).",
                "还差的那一份是 omega / (curvature + omega)。",
            ),
            Mistake(
                steps_of_a_flow,
                "That holds for very small rates. A step's factor is 1 - lr * curvature, not exp(-lr * curvature).",
                "这只在学习率很小时成立；每步的倍数是 1 - lr * curvature，不是 exp(-lr * curvature)。",
            ),
            Mistake(
                steps_negative,
                "The number of steps must be positive: watch the signs of the two logarithms.",
                "步数应为正：注意两个对数的符号。",
            ),
        ),
        hints=(
            (
                "Which share of the way is still missing after t steps, and which with ridge?",
                "走 t 步后还差几分之几？岭回归呢？",
            ),
            (
                "(1 - lr * curvature) ** t = omega / (curvature + omega); take logarithms.",
                "(1 - lr * curvature) ** t = omega / (curvature + omega)，两边取对数。",
            ),
        ),
    ),
    Exercise(
        id="03.4",
        solution=move,
        cases=move_case,
        mistakes=(
            Mistake(
                move_around,
                "What leaves on one side comes back on the other. It should be lost.",
                "从一侧出去的又从另一侧回来了；它应当消失。",
            ),
            Mistake(
                lambda images, down, right: move(images, -down, -right),
                "All images move in the opposite direction.",
                "所有图像都朝相反的方向移动了。",
            ),
            Mistake(
                lambda images, down, right: move(images, right, down),
                "Rows and columns are swapped: down belongs to the second axis of images, right to the third.",
                "行与列弄反了：down 对应 images 的第二个轴，right 对应第三个轴。",
            ),
            Mistake(
                move_all_alike,
                "Each image has a shift of its own.",
                "每张图像有自己的位移。",
            ),
        ),
        hints=(
            ("From which row of the old image does row r of the new one come?", "新图像的第 r 行来自旧图像的哪一行？"),
            (
                "A loop over the images with roll is fine; then set to 0 the rows and columns that came around.",
                "可以逐张使用 roll，再把绕回来的行和列置为 0。",
            ),
        ),
    ),
    Exercise(
        id="03.5",
        solution=best_of,
        cases=best_case,
        mistakes=(
            Mistake(
                best_of_one,
                "That is the expectation for a single candidate, which is a.",
                "这是单个候选者的期望，也就是 a。",
            ),
            Mistake(
                best_of_bound, "That is a plus the bound; the exact value is smaller.", "这是 a 加上界；精确值更小。"
            ),
            Mistake(
                best_of_count,
                "That is a number of images; the accuracy is its share of n.",
                "这是图像的张数；准确率要再除以 n。",
            ),
            Mistake(
                best_of_at_most,
                "The maximum is at least s unless all are *below* s; s itself does not count as below.",
                "除非全都*小于* s，最大值才不到 s；等于 s 不算小于。",
            ),
            Mistake(
                best_of_all,
                "That is the smallest score: you ask that all candidates reach s. One is enough.",
                "这是最差的成绩：你要求所有候选者都达到 s，其实有一个就够了。",
            ),
        ),
        hints=(
            (
                "What is the chance that one candidate has fewer than s right? And all K of them?",
                "一个候选者答对不到 s 张的概率是多少？K 个全都如此呢？",
            ),
            (
                "math.comb(n, s) * a**s * (1 - a)**(n - s) is the chance of exactly s.",
                "恰好答对 s 张的概率是 math.comb(n, s) * a**s * (1 - a)**(n - s)。",
            ),
        ),
    ),
)
