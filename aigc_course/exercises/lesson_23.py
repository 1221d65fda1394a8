"""Exercises of lesson 23, DCGAN."""

import torch
import torch.nn.functional as F

from . import Exercise, Mistake


def transposed_line(y, weight, stride):
    k = len(weight)
    x = torch.zeros(len(y), (y.shape[1] - 1) * stride + k)
    for i in range(y.shape[1]):
        x[:, i * stride : i * stride + k] += y[:, i : i + 1] * weight
    return x


def frechet_diagonal(mean_a, variance_a, mean_b, variance_b):
    return (mean_a - mean_b).square().sum(1) + (variance_a.sqrt() - variance_b.sqrt()).square().sum(1)


def sizes_through(size, layers):
    sizes = []
    for kind, kernel, stride, padding in layers:
        if kind == "convolution":
            size = (size + 2 * padding - kernel) // stride + 1
        else:
            size = stride * (size - 1) + kernel - 2 * padding
        sizes.append(size)
    return sizes


def recall(real, generated, k):
    radius = torch.cdist(generated, generated).sort(dim=1).values[:, k]
    return (torch.cdist(real, generated) <= radius).any(dim=1).float().mean()


# --- wrong answers that take more than a line ---


def stamps_overwrite(y, weight, stride):
    k = len(weight)
    x = torch.zeros(len(y), (y.shape[1] - 1) * stride + k)
    for i in range(y.shape[1]):
        x[:, i * stride : i * stride + k] = y[:, i : i + 1] * weight
    return x


def sizes_with(size, layers, forth, back):
    """`sizes_through` with other formulas for a convolution and for a transposed one."""
    sizes = []
    for kind, *numbers in layers:
        size = forth(size, *numbers) if kind == "convolution" else back(size, *numbers)
        sizes.append(size)
    return sizes


def radius_of(features, k):
    return torch.cdist(features, features).sort(dim=1).values[:, k]


# --- inputs ---


def line_case(g):
    draw = lambda low, high: int(torch.randint(low, high, (), generator=g))
    stride = draw(2, 4)
    weight = torch.randn(stride + draw(1, 4), generator=g)  # longer than the stride: stamps overlap
    return torch.randn(draw(2, 5), draw(3, 7), generator=g), weight, stride


def frechet_case(g):
    shape = [int(torch.randint(3, 7, (), generator=g)) for _ in range(2)]
    means = torch.randn(2, *shape, generator=g)
    variances = 0.2 + 4 * torch.rand(2, *shape, generator=g)
    return means[0], variances[0], means[1], variances[1]


def sizes_case(g):
    draw = lambda low, high: int(torch.randint(low, high, (), generator=g))
    layers = [("transposed", draw(3, 7), draw(2, 4), draw(0, 2)) for _ in range(2)]
    layers += [("convolution", draw(3, 6), draw(2, 4), draw(1, 3)) for _ in range(2)]
    return draw(5, 12), layers


def recall_case(g):
    rows, others = [int(torch.randint(30, 60, (), generator=g)) for _ in range(2)]
    real = torch.randn(rows, 3, generator=g)
    real[: rows // 3] += 6  # a part that the generator does not know
    return real, 0.8 * torch.randn(others, 3, generator=g) - 0.3, int(torch.randint(2, 5, (), generator=g))


EXERCISES = (
    Exercise(
        id="23.1",
        solution=transposed_line,
        cases=line_case,
        mistakes=(
            Mistake(
                stamps_overwrite,
                "Where stamps overlap they add up; yours overwrite one another.",
                "印章重叠的地方要相加，你的后一个覆盖了前一个。",
            ),
            Mistake(
                lambda y, weight, stride: transposed_line(y, weight.flip(0), stride),
                "The kernel is not turned round: the stamp begins with weight[0].",
                "卷积核不用翻转：印章从 weight[0] 开始。",
            ),
            Mistake(
                lambda y, weight, stride: transposed_line(y, weight, 1),
                "Stamps lie `stride` numbers apart, yours lie side by side.",
                "相邻印章相隔 stride 个位置，你的只隔一个。",
            ),
            Mistake(
                lambda y, weight, stride: F.pad(transposed_line(y, weight, stride), (0, max(0, stride - 1))),
                "It is too long: the last stamp begins at stride * (T - 1) and is k wide.",
                "结果太长：最后一个印章从 stride * (T - 1) 开始，宽度是 k。",
            ),
        ),
        hints=(
            ("Make a line of zeros of the length (23.6), then stamp.", "先按式 (23.6) 的长度造一串零，再逐个盖印章。"),
            (
                "x[:, i * stride : i * stride + k] += y[:, i : i + 1] * weight, for every i.",
                "对每个 i：x[:, i * stride : i * stride + k] += y[:, i : i + 1] * weight。",
            ),
        ),
    ),
    Exercise(
        id="23.2",
        solution=frechet_diagonal,
        cases=frechet_case,
        mistakes=(
            Mistake(
                lambda ma, va, mb, vb: (ma - mb).square().sum(1) + (va - vb).square().sum(1),
                "The roots of the variances are compared, not the variances.",
                "要比较的是方差的平方根，不是方差本身。",
            ),
            Mistake(
                lambda ma, va, mb, vb: (ma - mb).square().sum(1) + (va + vb - (va * vb).sqrt()).sum(1),
                "The root of the product is taken away twice.",
                "乘积的平方根要减去两倍。",
            ),
            Mistake(
                lambda ma, va, mb, vb: (ma - mb).norm(dim=1) + (va.sqrt() - vb.sqrt()).square().sum(1),
                "The distance of the means is squared.",
                "均值之间的距离要平方。",
            ),
            Mistake(
                lambda *a: frechet_diagonal(*a).sqrt(),
                "As is customary, the square of the distance is wanted.",
                "按惯例，要的是距离的平方。",
            ),
            Mistake(
                lambda *a: frechet_diagonal(*a).mean(),
                "One number for each row.",
                "每一行要一个数。",
            ),
        ),
        hints=(
            ("Diagonal matrices multiply entry by entry.", "对角矩阵相乘就是逐元素相乘。"),
            ("a + b - 2 sqrt(ab) is a square.", "a + b - 2 sqrt(ab) 是一个完全平方。"),
        ),
    ),
    Exercise(
        id="23.3",
        solution=sizes_through,
        cases=sizes_case,
        mistakes=(
            Mistake(
                lambda size, layers: sizes_with(
                    size, layers, lambda n, k, s, p: (n + 2 * p - k) // s + 1, lambda n, k, s, p: s * n + k - 2 * p
                ),
                "Transposed: the last stamp begins at stride * (size - 1).",
                "转置卷积：最后一个印章从 stride * (size - 1) 开始。",
            ),
            Mistake(
                lambda size, layers: sizes_with(
                    size, layers, lambda n, k, s, p: (n + 2 * p - k) // s, lambda n, k, s, p: s * (n - 1) + k - 2 * p
                ),
                "Convolution: the first place counts too, + 1.",
                "卷积：第一个位置也要算上，+ 1。",
            ),
            Mistake(
                lambda size, layers: sizes_with(
                    size, layers, lambda n, k, s, p: (n + p - k) // s + 1, lambda n, k, s, p: s * (n - 1) + k - p
                ),
                "The padding is on both sides.",
                "两边都有填充。",
            ),
            Mistake(
                lambda size, layers: sizes_through(size, layers)[-1:] * len(layers),
                "The size after each layer is wanted, not only the last.",
                "要的是每一层之后的大小，不只是最后的。",
            ),
        ),
        hints=(
            (
                "One formula for each kind, and the result is the next layer's input.",
                "两种层各用一个公式，结果是下一层的输入。",
            ),
            (
                "(23.2) with // for a convolution, (23.6) for a transposed one.",
                "卷积用式 (23.2)（整除 //），转置卷积用式 (23.6)。",
            ),
        ),
    ),
    Exercise(
        id="23.4",
        solution=recall,
        cases=recall_case,
        mistakes=(
            Mistake(
                lambda real, generated, k: recall(generated, real, k),
                "This is the precision: the share of the generated points near real ones.",
                "这是精确率：生成点中靠近真实点的比例。",
            ),
            Mistake(
                lambda real, generated, k: recall(real, generated, k - 1),
                "The nearest point to a point is itself: it does not count as a neighbour.",
                "离一个点最近的是它自己，不能算作邻居。",
            ),
            Mistake(
                lambda real, generated, k: (
                    (torch.cdist(real, generated) <= radius_of(generated, k).mean()).any(dim=1).float().mean()
                ),
                "Each generated point has a radius of its own.",
                "每个生成点有自己的半径。",
            ),
            Mistake(
                lambda real, generated, k: (
                    (torch.cdist(real, generated) <= radius_of(real, k)[:, None]).any(dim=1).float().mean()
                ),
                "The radius belongs to the generated points: how far does each of them reach?",
                "半径属于生成点：每个生成点能够到多远？",
            ),
        ),
        hints=(
            (
                "First a radius for each generated point, then ask of each real one.",
                "先求每个生成点的半径，再逐个考察真实点。",
            ),
            (
                "torch.cdist(generated, generated).sort(dim=1).values[:, k]: column 0 is the point itself.",
                "torch.cdist(generated, generated).sort(dim=1).values[:, k]：第 0 列是点自己。",
            ),
        ),
    ),
)
