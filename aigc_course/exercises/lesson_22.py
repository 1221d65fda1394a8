"""Exercises of lesson 22, the adversarial game."""

import math

import torch
import torch.nn.functional as F

from . import Exercise, Mistake
from .core import difference, plain


def js_divergence(p, q):
    m = (p + q) / 2
    kl_p = torch.special.xlogy(p, p).sum(dim=1) - torch.special.xlogy(p, m).sum(dim=1)
    kl_q = torch.special.xlogy(q, q).sum(dim=1) - torch.special.xlogy(q, m).sum(dim=1)
    return (kl_p + kl_q) / 2


def wasserstein_rows(x, y):
    return (x.sort(dim=1).values - y.sort(dim=1).values).abs().mean(dim=1)


def one_round(theta, c, x, noise, lr):
    logit = lambda c, x: c[0] + c[1] * x + c[2] * x**2
    theta, c = theta.detach().requires_grad_(), c.detach().requires_grad_()
    fake = (theta[0] + theta[1] * noise).detach()
    loss = F.softplus(-logit(c, x)).mean() + F.softplus(logit(c, fake)).mean()
    c = (c - lr * torch.autograd.grad(loss, c)[0]).detach()
    loss = F.softplus(-logit(c, theta[0] + theta[1] * noise)).mean()
    theta = (theta - lr * torch.autograd.grad(loss, theta)[0]).detach()
    return theta, c


def one_sided_penalty(critic, x, fake, mix):
    between = (mix * x + (1 - mix) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return F.relu(slope.norm(dim=1) - 1).square().mean()


# --- wrong answers that take more than a line ---


def zeros_make_nan(p, q):
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2


def kl_both_ways(p, q):
    p, q = p.clamp(min=1e-12), q.clamp(min=1e-12)
    return ((p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)) / 2


def round_with(theta, c, x, noise, lr, old=False, saturating=False, swapped=False, caught=False):
    """`one_round` with one thing done differently."""
    logit = lambda c, x: c[0] + c[1] * x + c[2] * x**2
    theta, c = theta.detach().requires_grad_(), c.detach().requires_grad_()
    fake = theta[0] + theta[1] * noise
    sign = -1 if swapped else 1
    loss = F.softplus(-sign * logit(c, x)).mean() + F.softplus(sign * logit(c, fake)).mean()
    step_c, step_theta = torch.autograd.grad(loss, (c, theta))
    new = (c - lr * step_c).detach()
    if caught:
        theta = (theta - lr * step_theta).detach().requires_grad_()
    a = logit(c if old else new, theta[0] + theta[1] * noise)
    loss = -F.softplus(a).mean() if saturating else F.softplus(-a).mean()
    return (theta - lr * torch.autograd.grad(loss, theta)[0]).detach(), new


def slopes(critic, x, fake, mix):
    between = (mix * x + (1 - mix) * fake).detach().requires_grad_()
    return torch.autograd.grad(critic(between).sum(), between)[0]  # (B, d)


# --- a judgement of its own ---


def verify_penalty(function, g):
    """The value on several cases, and whether a gradient can go through it."""
    for _ in range(8):
        arguments = penalty_case(g)
        found = function(*arguments)
        problem = difference(plain(one_sided_penalty(*arguments)), plain(found), EXERCISES[3])
        if problem:
            return problem
        if not getattr(found, "requires_grad", False):
            return (
                "The number is right, but the critic cannot learn from it: torch.autograd.grad needs "
                "create_graph=True, and the result has to stay a tensor.",
                "数值正确，但评论器没法从它学习：torch.autograd.grad 要加 create_graph=True，结果也要保持为张量。",
            )


# --- inputs ---


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def js_case(g):
    b, k = sizes(g, (2, 4), (5, 8))
    p, q = 0.1 + torch.rand(2, b, k, generator=g)
    p[:, 0], q[:, 1] = 0.0, 0.0
    p[0, :3], q[0, 3:] = 0.0, 0.0  # the first pair never meets
    return p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)


def wasserstein_case(g):
    b, n = sizes(g, (2, 4), (5, 9))
    return torch.randn(b, n, generator=g), 0.3 + 2 * torch.randn(b, n, generator=g)


def round_case(g):
    (b,) = sizes(g, (5, 9))
    theta = torch.tensor([-1.0, 0.6]) + 0.3 * torch.randn(2, generator=g)
    c = torch.tensor([0.3, 0.8, -0.4]) + 0.2 * torch.randn(3, generator=g)
    return theta, c, 1 + torch.randn(b, generator=g), torch.randn(b, generator=g), 0.3


def penalty_case(g):
    b, d = sizes(g, (4, 7), (2, 4))
    A, w = torch.randn(8, d, generator=g), torch.randn(8, 1, generator=g)

    def critic(x):
        return 0.3 * torch.tanh(x @ A.T) @ w + 0.3 * x.square().sum(1, keepdim=True)  # (B, 1)

    x, fake = 2 * torch.randn(b, d, generator=g), 0.2 * torch.randn(b, d, generator=g)
    x[0] += 2.0  # at least one slope is above 1
    mix = torch.rand(b, 1, generator=g)
    mix[0], mix[1] = 0.9, 0.2
    return critic, x, fake, mix


EXERCISES = (
    Exercise(
        id="22.1",
        solution=js_divergence,
        cases=js_case,
        mistakes=(
            Mistake(
                zeros_make_nan,
                "0 * log(0) is NaN on a computer and 0 in the definition: torch.special.xlogy.",
                "0 * log(0) 在计算机里是 NaN，按定义应为 0：用 torch.special.xlogy。",
            ),
            Mistake(
                kl_both_ways,
                "This is the mean of the two KL divergences between p and q. Both should go to the mixture m.",
                "这是 p 与 q 之间两个 KL 散度的平均；两者都应当是到混合分布 m 的。",
            ),
            Mistake(
                lambda p, q: 2 * js_divergence(p, q),
                "Twice too large: each KL divergence counts half.",
                "大了一倍：每个 KL 散度只算一半。",
            ),
            Mistake(
                lambda p, q: js_divergence(p, q) / math.log(2),
                "In bits; asked for are nats, so the natural logarithm.",
                "单位成了比特；这里要奈特，用自然对数。",
            ),
            Mistake(
                lambda p, q: js_divergence(p, q).mean(),
                "One number for all rows: sum over the last dimension only.",
                "所有行合成了一个数：只对最后一维求和。",
            ),
        ),
        hints=(
            ("First the mixture m = (p + q) / 2.", "先求混合分布 m = (p + q) / 2。"),
            (
                "KL(p || m) is the sum of xlogy(p, p) - xlogy(p, m) over dimension 1.",
                "KL(p || m) 等于 xlogy(p, p) - xlogy(p, m) 在第 1 维上的和。",
            ),
        ),
    ),
    Exercise(
        id="22.2",
        solution=wasserstein_rows,
        cases=wasserstein_case,
        mistakes=(
            Mistake(
                lambda x, y: (x - y).abs().mean(1),
                "The numbers are paired as they happened to come. Which pairing is the cheapest?",
                "你按到来的先后配对。怎样配对才最省？",
            ),
            Mistake(
                lambda x, y: (x.sort(0).values - y.sort(0).values).abs().mean(1),
                "Sorted along the wrong dimension: each row is a sample of its own.",
                "排序的维弄错了：每一行各是一组样本。",
            ),
            Mistake(
                lambda x, y: (x.mean(1) - y.mean(1)).abs(),
                "Only the means are compared: two samples with the same mean can be far apart.",
                "只比较了均值；均值相同的两组样本也可能相距很远。",
            ),
            Mistake(
                lambda x, y: (x.sort(1).values - y.sort(1).values).abs().sum(1),
                "Summed; each number carries the mass 1 / N.",
                "你求了和；每个数只占质量的 1 / N。",
            ),
            Mistake(
                lambda x, y: (x.sort(1).values - y.sort(1).values).square().mean(1),
                "The way counts as it is, not squared.",
                "路程按原样计算，不要平方。",
            ),
        ),
        hints=(
            ("Leftmost earth into the leftmost hole.", "最左边的土填最左边的坑。"),
            ("x.sort(dim=1).values sorts each row.", "x.sort(dim=1).values 把每一行排好序。"),
        ),
    ),
    Exercise(
        id="22.3",
        solution=one_round,
        cases=round_case,
        mistakes=(
            Mistake(
                lambda *a: round_with(*a, old=True),
                "The generator steps against the old discriminator: use the c that has just been updated.",
                "生成器面对的还是旧的判别器；应当用刚刚更新过的 c。",
            ),
            Mistake(
                lambda *a: round_with(*a, saturating=True),
                "The generator uses the saturating loss; -log D is softplus(-a).",
                "生成器用了饱和损失；-log D 是 softplus(-a)。",
            ),
            Mistake(
                lambda *a: round_with(*a, swapped=True),
                "The discriminator learns to call generated points real: real is softplus(-a), generated softplus(a).",
                "判别器学成了把生成的点当作真的：真的用 softplus(-a)，生成的用 softplus(a)。",
            ),
            Mistake(
                lambda *a: round_with(*a, caught=True),
                "The discriminator's loss moves theta as well: it learns to be caught.",
                "判别器的损失把 theta 也更新了：生成器会学着让自己被抓住。",
            ),
            Mistake(
                lambda *a: (a[0], one_round(*a)[1]),
                "theta has not moved: is its graph cut by a detach?",
                "theta 没有动：是不是 detach 把计算图剪断了？",
            ),
        ),
        hints=(
            ("Two steps, one after the other; only the second moves theta.", "两步有先后，只有第二步更新 theta。"),
            (
                "theta = theta.detach().requires_grad_(), then torch.autograd.grad(loss, theta)[0]; "
                "detach the generated points in the first step only.",
                "theta = theta.detach().requires_grad_()，再用 torch.autograd.grad(loss, theta)[0]；"
                "只在第一步里对生成的点用 detach。",
            ),
        ),
    ),
    Exercise(
        id="22.4",
        solution=one_sided_penalty,
        cases=penalty_case,
        verify=verify_penalty,
        mistakes=(
            Mistake(
                lambda critic, x, fake, mix: (slopes(critic, x, fake, mix).norm(dim=1) - 1).square().mean(),
                "This is the two-sided penalty: slopes below 1 should cost nothing.",
                "这是双侧惩罚；斜率小于 1 时不应当受罚。",
            ),
            Mistake(
                lambda critic, x, fake, mix: F.relu(slopes(critic, x, fake, mix).norm() - 1).square(),
                "The norm of the whole batch's gradient: take it example by example, dim=1.",
                "你取了整个批次的梯度的范数；应当逐个样本取，dim=1。",
            ),
            Mistake(
                lambda critic, x, fake, mix: F.relu(slopes(critic, x, fake, mix).norm(dim=1) - 1).mean(),
                "The excess has to be squared.",
                "超出的部分要平方。",
            ),
            Mistake(
                lambda critic, x, fake, mix: one_sided_penalty(critic, fake, x, mix),
                "mix is the share of the real x, not of the generated points.",
                "mix 是真实的 x 所占的比例，不是生成的点的。",
            ),
            Mistake(
                lambda critic, x, fake, mix: F.relu(slopes(critic, x, fake, mix) - 1).square().mean(),
                "Each coordinate for itself: the slope is the norm of the gradient.",
                "你对每个坐标单独计算；斜率是梯度的范数。",
            ),
            Mistake(
                lambda critic, x, fake, mix: (
                    F.relu(slopes(critic, x, fake, mix).norm(dim=1) / len(x) - 1).square().mean()
                ),
                "A mean of the critic's outputs makes each slope B times too small: differentiate their sum.",
                "对评论器的输出取平均，每个斜率就小了 B 倍：应当对它们的和求导。",
            ),
        ),
        hints=(
            ("Make the points between, and ask for gradients there.", "先造出中间的点，再求那里的梯度。"),
            (
                "The slopes: torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0].norm(dim=1)",
                "斜率：torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0].norm(dim=1)",
            ),
        ),
    ),
)
