"""Exercises of lesson 02, optimisers."""

import torch

from . import Exercise, Mistake


def best_rate_for(A):
    curvature = torch.linalg.eigvalsh(A)  # (d,), the smallest first
    low, high = curvature[0], curvature[-1]
    return 2 / (low + high), (high - low) / (high + low)


def running_mean(values, beta):
    m, means = 0.0, []
    for t, value in enumerate(values, start=1):
        m = beta * m + (1 - beta) * value
        means.append(m / (1 - beta**t))
    return torch.stack(means)


def trapezoid(fraction, warmup, cooldown):
    return torch.minimum(fraction / warmup, (1 - fraction) / cooldown).clamp(max=1)


def lion_step(theta, g, m, lr, beta1, beta2, decay):
    c = beta1 * m + (1 - beta1) * g
    return theta - lr * (c.sign() + decay * theta), beta2 * m + (1 - beta2) * g


def spread_after(rates, curvature, sigma, start):
    square = start**2
    for lr in rates:
        square = (1 - lr * curvature) ** 2 * square + lr**2 * sigma**2
    return square


# --- wrong answers that take more than a line ---


def rate_at_the_limit(A):
    curvature = torch.linalg.eigvalsh(A)
    lr = 2 / curvature[-1]
    return lr, (1 - lr * curvature).abs().max()


def rate_of_the_steepest(A):
    curvature = torch.linalg.eigvalsh(A)
    return 1 / curvature[-1], 1 - curvature[0] / curvature[-1]


def rate_from_the_diagonal(A):
    return best_rate_for(torch.diag(A.diagonal()))


def uncorrected(values, beta):
    return running_mean(values, beta) * (1 - beta ** torch.arange(1, len(values) + 1))


def corrected_too_late(values, beta):
    return uncorrected(values, beta) / (1 - beta ** torch.arange(2, len(values) + 2))


def corrected_at_the_end(values, beta):
    return uncorrected(values, beta) / (1 - beta ** len(values))


def no_plateau(fraction, warmup, cooldown):
    return torch.minimum(fraction / warmup, (1 - fraction) / cooldown)


def falls_too_early(fraction, warmup, cooldown):
    return torch.minimum(fraction / warmup, (1 - fraction) / (1 - cooldown)).clamp(max=1)


def never_falls(fraction, warmup, cooldown):
    return (fraction / warmup).clamp(max=1)


def multiplied(fraction, warmup, cooldown):
    return (fraction / warmup).clamp(max=1) * (1 - fraction / cooldown).clamp(min=0)


def lion_memory_first(theta, g, m, lr, beta1, beta2, decay):
    m = beta2 * m + (1 - beta2) * g
    return theta - lr * ((beta1 * m + (1 - beta1) * g).sign() + decay * theta), m


def lion_with_one_beta(theta, g, m, lr, beta1, beta2, decay):
    return lion_step(theta, g, m, lr, beta1, beta1, decay)


def lion_without_sign(theta, g, m, lr, beta1, beta2, decay):
    c = beta1 * m + (1 - beta1) * g
    return theta - lr * (c + decay * theta), beta2 * m + (1 - beta2) * g


def lion_with_l2(theta, g, m, lr, beta1, beta2, decay):
    return lion_step(theta, g + decay * theta, m, lr, beta1, beta2, 0.0)


def lion_decay_alone(theta, g, m, lr, beta1, beta2, decay):
    c = beta1 * m + (1 - beta1) * g
    return theta - lr * c.sign() - decay * theta, beta2 * m + (1 - beta2) * g


def spread_without_noise(rates, curvature, sigma, start):
    return spread_after(rates, curvature, 0.0, start)


def spread_of_the_variance(rates, curvature, sigma, start):
    return spread_after(rates, curvature, sigma, 0.0)


def spread_with_bare_rate(rates, curvature, sigma, start):
    square = start**2
    for lr in rates:
        square = (1 - lr * curvature) ** 2 * square + lr * sigma**2
    return square


def spread_without_square(rates, curvature, sigma, start):
    square = start**2
    for lr in rates:
        square = (1 - lr * curvature) * square + lr**2 * sigma**2
    return square


def spread_at_rest(rates, curvature, sigma, start):
    lr = rates[-1]
    return lr * sigma**2 / (curvature * (2 - lr * curvature))


# --- inputs ---


def uniform(g, low, high, *shape):
    return low + (high - low) * torch.rand(*shape, generator=g)


def matrix_case(g):
    d = int(torch.randint(2, 7, (), generator=g))
    directions = torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    curvature = torch.cat((torch.tensor([0.4, 9.0]), uniform(g, 0.5, 8.0, d - 2))) * uniform(g, 0.5, 2.0, 1)
    A = directions @ torch.diag(curvature) @ directions.T
    return ((A + A.T) / 2,)


def values_case(g):
    T = int(torch.randint(4, 10, (), generator=g))
    return torch.randn(T, generator=g) + 2, uniform(g, 0.6, 0.95, ()).item()


def fraction_case(g):
    rows, columns = torch.randint(8, 12, (2,), generator=g).tolist()
    fraction = torch.rand(rows, columns, generator=g)
    fraction[0, :4] = torch.tensor([0.0, 1.0, 0.03, 0.97])
    return fraction, uniform(g, 0.05, 0.2, ()).item(), uniform(g, 0.2, 0.4, ()).item()


def lion_case(g):
    shape = torch.randint(6, 10, (2,), generator=g).tolist()
    theta, gradient, m = (torch.randn(*shape, generator=g) for _ in range(3))
    return theta, gradient, m, uniform(g, 0.1, 0.5, ()).item(), 0.8, 0.6, uniform(g, 0.2, 0.6, ()).item()


def spread_case(g):
    T = int(torch.randint(3, 8, (), generator=g))
    numbers = [uniform(g, *interval, ()).item() for interval in ((0.5, 2.0), (0.5, 2.0), (1.0, 3.0))]
    return uniform(g, 0.05, 0.3, T), *numbers


EXERCISES = (
    Exercise(
        id="02.1",
        solution=best_rate_for,
        cases=matrix_case,
        mistakes=(
            Mistake(
                rate_at_the_limit,
                "This rate is the limit of stability: there the steepest direction does not shrink at all.",
                "这是稳定的极限：取到它时，最陡的方向一点也不缩小。",
            ),
            Mistake(
                rate_of_the_steepest,
                "This is best for the steepest direction alone. A larger rate helps the flattest one more.",
                "这只对最陡的方向最好；再大一些，对最平缓的方向更有利。",
            ),
            Mistake(
                rate_from_the_diagonal,
                "The curvatures are the eigenvalues of A. They stand on its diagonal only if A is diagonal.",
                "曲率是 A 的特征值；只有 A 是对角矩阵时，它们才在对角线上。",
            ),
            Mistake(
                lambda A: (best_rate_for(A)[0], 1 / best_rate_for(A)[1]),
                "The factor must be below 1: the distance shrinks.",
                "倍数应小于 1：距离是在缩小的。",
            ),
        ),
        hints=(
            ("Which equation gives the best compromise between the two ends?", "哪个式子给出了两端之间最好的折中？"),
            (
                "torch.linalg.eigvalsh(A) gives the curvatures in rising order.",
                "torch.linalg.eigvalsh(A) 从小到大给出曲率。",
            ),
        ),
    ),
    Exercise(
        id="02.2",
        solution=running_mean,
        cases=values_case,
        mistakes=(
            Mistake(
                uncorrected,
                "The correction is missing: the first numbers are too close to 0.",
                "少了偏差修正：开头几个数太接近 0。",
            ),
            Mistake(
                corrected_too_late,
                "The exponent is one too large: at the first value it is 1.",
                "指数多了 1：第一个值对应的指数是 1。",
            ),
            Mistake(
                corrected_at_the_end,
                "Every step has its own exponent: t, not T.",
                "每一步的指数各不相同：是 t，不是 T。",
            ),
            Mistake(
                lambda values, beta: running_mean(values, 1 - beta),
                "beta and 1 - beta are swapped: beta is the share of the old mean.",
                "beta 和 1 - beta 弄反了：beta 是旧平均值所占的份额。",
            ),
        ),
        hints=(
            ("Begin with m = 0 and follow the definition of Adam's m.", "从 m = 0 开始，照着 Adam 中 m 的定义做。"),
            ("Divide a copy by 1 - beta ** t; m itself stays uncorrected.", "输出 m / (1 - beta ** t)；m 本身不要改。"),
        ),
    ),
    Exercise(
        id="02.3",
        solution=trapezoid,
        cases=fraction_case,
        mistakes=(
            Mistake(no_plateau, "The factor must never exceed 1.", "系数任何时候都不应超过 1。"),
            Mistake(
                falls_too_early,
                "The fall takes the last share `cooldown`; here it takes all but that.",
                "下降只占最后的 `cooldown` 这一段；这里把其余部分都占了。",
            ),
            Mistake(never_falls, "At the end of training the factor is 0.", "训练结束时系数应为 0。"),
            Mistake(
                multiplied,
                "The fall begins too early: it should end at fraction 1 and begin at 1 - cooldown.",
                "下降开始得太早：它应从 1 - cooldown 开始，到 1 结束。",
            ),
        ),
        hints=(
            (
                "Three straight lines: which of them is the lowest at each place?",
                "三条直线：在每一处，最低的是哪一条？",
            ),
            ("The last line is (1 - fraction) / cooldown.", "最后一条是 (1 - fraction) / cooldown。"),
        ),
    ),
    Exercise(
        id="02.4",
        solution=lion_step,
        cases=lion_case,
        mistakes=(
            Mistake(
                lion_memory_first,
                "The step uses the old memory: compute c before m changes.",
                "这一步要用旧的 m：先算 c，再更新 m。",
            ),
            Mistake(
                lion_with_one_beta,
                "The memory has a beta of its own, beta2.",
                "m 的更新有自己的 beta，即 beta2。",
            ),
            Mistake(lion_without_sign, "Only the sign of c counts.", "只取 c 的符号。"),
            Mistake(
                lion_with_l2,
                "That is L2: the decay must not go through the sign, nor into the memory.",
                "这成了 L2：衰减不应经过符号函数，也不应进入 m。",
            ),
            Mistake(
                lion_decay_alone,
                "The decay is multiplied by the learning rate as well.",
                "衰减也要乘以学习率。",
            ),
        ),
        hints=(
            ("Write the three formulas of the card, in their order.", "按卡片上的顺序写出三个式子。"),
            ("Return both tensors: `return theta, m`.", "两个张量都要返回：`return theta, m`。"),
        ),
    ),
    Exercise(
        id="02.5",
        solution=spread_after,
        cases=spread_case,
        mistakes=(
            Mistake(spread_without_noise, "Each step adds noise.", "每一步都会加入噪声。"),
            Mistake(
                spread_of_the_variance,
                "This is the variance. The mean square also holds the distance from which the walk started.",
                "这是方差；均方还包含起点的距离。",
            ),
            Mistake(
                spread_with_bare_rate,
                "The noise is multiplied by the rate, so its variance by the square of it.",
                "噪声乘以学习率，所以方差要乘以学习率的平方。",
            ),
            Mistake(
                spread_without_square,
                "The position shrinks by 1 - lr * curvature; by what does its square shrink?",
                "位置缩小到 1 - lr * curvature 倍；它的平方缩小到多少倍？",
            ),
            Mistake(
                spread_at_rest,
                "(02.10) holds after infinitely many steps at one rate. Follow the mean square step by step.",
                "式 (02.10) 说的是同一学习率走无穷多步之后；请逐步跟踪均方。",
            ),
        ),
        hints=(
            ("How does E[theta squared] change in one step?", "走一步，E[theta 的平方] 怎样变化？"),
            (
                "The noise is independent of theta and has mean 0, so the mixed term vanishes.",
                "噪声与 theta 独立且均值为 0，所以交叉项为零。",
            ),
        ),
    ),
)
