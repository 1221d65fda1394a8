"""Exercises of lesson 00, start here: shapes, broadcasting, gradients."""

import torch

from . import Exercise, Mistake
from .core import difference, plain


def mean_images(images, labels):
    return torch.stack([images[labels == c].mean(dim=0) for c in range(10)])


def squared_distances(a, b):
    return (a[:, None] - b).square().sum(dim=2)  # (N, 1, d) and (M, d) broadcast to (N, M, d)


def descend(f, x, rate, steps):
    x = x.clone().requires_grad_()
    for _ in range(steps):
        x.grad = None
        f(x).backward()
        with torch.no_grad():
            x -= rate * x.grad
    return x.detach()


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def images_case(g):
    n, height, width = sizes(g, (30, 60), (3, 6), (7, 9))
    labels = torch.randint(10, (n,), generator=g)
    labels[:10] = torch.arange(10)  # each class occurs
    shuffled = labels[torch.randperm(n, generator=g)]
    return torch.rand(n, height, width, generator=g) + shuffled[:, None, None], shuffled


def points_case(g):
    n, m, d = sizes(g, (3, 5), (6, 8), (2, 4))
    return torch.randn(n, d, generator=g), torch.randn(m, d, generator=g)


def valley_case(g):
    d, steps = sizes(g, (2, 5), (4, 8))
    curvature = torch.rand(d, generator=g) + 0.5
    bottom = torch.randn(d, generator=g)

    def valley(x):
        return (curvature * (x - bottom).square()).sum() + torch.sin(x).sum()

    return valley, torch.randn(d, generator=g) + 3, 0.1, steps


def descend_adding_up(f, x, rate, steps):
    x = x.clone().requires_grad_()
    for _ in range(steps):
        f(x).backward()
        with torch.no_grad():
            x -= rate * x.grad
    return x.detach()


def verify_descend(function, g):
    for _ in range(4):
        f, x, rate, steps = valley_case(g)
        given = x.clone()
        found = function(f, x, rate, steps)
        problem = difference(plain(descend(f, given, rate, steps)), plain(found), EXERCISES[2])
        if problem:
            return problem
        if not torch.equal(x.detach(), given):
            return "The x that was given has changed: work on a copy.", "传进来的 x 被改动了：请在它的拷贝上算。"
        if getattr(found, "requires_grad", False):
            return "The result still takes notes: return x.detach().", "结果还带着计算图：请返回 x.detach()。"


EXERCISES = (
    Exercise(
        id="00.1",
        solution=mean_images,
        cases=images_case,
        mistakes=(
            Mistake(
                lambda images, labels: torch.stack([images[labels == c].mean() for c in range(10)]),
                "One number for each class: mean() without dim averages over rows and columns as well.",
                "每类只剩一个数：不带 dim 的 mean() 把行和列也平均掉了。",
            ),
            Mistake(
                lambda images, labels: torch.stack([images[labels == c].sum(dim=0) for c in range(10)]),
                "This is the sum of each class; how many images has it?",
                "这是每类的总和；这一类有几张图？",
            ),
            Mistake(
                lambda images, labels: torch.stack([images[labels == c].sum(dim=0) / len(images) for c in range(10)]),
                "Each sum is divided by the number of all images, not by that of its class.",
                "每类的总和除的是全部图像的张数，而不是这一类的张数。",
            ),
            Mistake(
                lambda images, labels: torch.stack([images[labels == c].mean(dim=1) for c in range(10)]),
                "dim=1 are the rows. Which axis counts the images?",
                "dim=1 是行。数图像的是哪个轴？",
            ),
        ),
        hints=(
            (
                "images[labels == 3] are the images of class 3, (how many, H, W).",
                "images[labels == 3] 是第 3 类的图像，形状为（张数, H, W）。",
            ),
            (
                "Average them over dim=0; torch.stack makes one tensor of ten.",
                "对它们在 dim=0 上取平均；torch.stack 把十个张量叠成一个。",
            ),
        ),
    ),
    Exercise(
        id="00.2",
        solution=squared_distances,
        cases=points_case,
        mistakes=(
            Mistake(
                lambda a, b: squared_distances(b, a),
                "Rows and columns are exchanged: the result has a row for each point of a.",
                "行与列颠倒了：结果的每一行对应 a 里的一个点。",
            ),
            Mistake(
                lambda a, b: (a[:, None] - b).square(),
                "The squares of all coordinates are still there, (N, M, d): add up the last axis.",
                "各坐标的平方还留着，形状是 (N, M, d)：请对最后一个轴求和。",
            ),
            Mistake(
                lambda a, b: squared_distances(a, b).sqrt(),
                "This is the distance; its square is wanted.",
                "这是距离；要的是它的平方。",
            ),
            Mistake(
                lambda a, b: (a[:, None] - b).square().mean(dim=2),
                "Divided by d: the squares are added up, not averaged.",
                "多除了 d：平方要相加，不是取平均。",
            ),
            Mistake(
                lambda a, b: (a - b).square().sum(dim=1),
                "(N, d) and (M, d) do not fit: give a one axis more, so that it can be repeated.",
                "(N, d) 与 (M, d) 对不上：给 a 添一个轴，它才能被重复。",
            ),
        ),
        hints=(
            ("a[:, None] has shape (N, 1, d).", "a[:, None] 的形状是 (N, 1, d)。"),
            (
                "a[:, None] - b has shape (N, M, d): square it, and add up its last axis.",
                "a[:, None] - b 的形状是 (N, M, d)：先平方，再对最后一个轴求和。",
            ),
        ),
    ),
    Exercise(
        id="00.3",
        solution=descend,
        cases=valley_case,
        verify=verify_descend,
        mistakes=(
            Mistake(
                descend_adding_up,
                "backward() adds to x.grad: empty it before each step.",
                "backward() 会把梯度累加到 x.grad 上：每一步之前先清空。",
            ),
            Mistake(
                lambda f, x, rate, steps: descend(f, x, -rate, steps),
                "This climbs. The gradient points uphill; go against it.",
                "这是在上山。梯度指向上坡，要逆着它走。",
            ),
            Mistake(
                lambda f, x, rate, steps: descend(f, x, rate, 1),
                "This is one step only.",
                "这里只走了一步。",
            ),
            Mistake(
                lambda f, x, rate, steps: x - rate * steps * torch.autograd.functional.jacobian(f, x),
                "All steps go along the first slope: it has to be computed anew at each place.",
                "每一步用的都是最初的斜率：走到哪里，就要在哪里重新求。",
            ),
        ),
        hints=(
            ("The loop of this lesson, with f in place of the loss.", "就是本课的那个循环，把损失换成 f。"),
            (
                "x = x.clone().requires_grad_() makes a copy that autograd follows.",
                "x = x.clone().requires_grad_() 得到一份由 autograd 跟踪的拷贝。",
            ),
            (
                "In each step: x.grad = None, f(x).backward(), and under torch.no_grad() x -= rate * x.grad.",
                "每一步：x.grad = None，f(x).backward()，再在 torch.no_grad() 下做 x -= rate * x.grad。",
            ),
        ),
    ),
)
