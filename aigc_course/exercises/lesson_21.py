"""Exercises of lesson 21, variational autoencoders."""

import math

import torch

from . import Exercise, Mistake


def sample_latents(mean, log_variance, noise):
    return mean + (log_variance / 2).exp() * noise  # (d,) and (B, d) broadcast against (K, B, d)


def kl_between(mean_q, log_variance_q, mean_p, log_variance_p):
    variance_ratio = (log_variance_q - log_variance_p).exp()
    distance = (mean_q - mean_p).square() / log_variance_p.exp()
    return 0.5 * (variance_ratio + distance - 1 - log_variance_q + log_variance_p).sum(dim=1)


def importance_weighted_bound(log_weights):
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def count_active(means, threshold=0.01):
    return int((means.var(dim=0) > threshold).sum())


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def latents_case(g):
    k, b, d = sizes(g, (2, 5), (2, 6), (2, 6))
    return (
        torch.randn(b, d, generator=g),
        torch.rand(b, d, generator=g) * 2 + 0.5,
        torch.randn(k, b, d, generator=g),
    )


def kl_case(g):
    b, d = sizes(g, (2, 6), (2, 6))
    return tuple(torch.randn(b, d, generator=g) for _ in range(4))


def weights_case(g):
    k, b = sizes(g, (2, 8), (2, 6))
    return (torch.randn(k, b, generator=g) * 3 - 240,)


def active_case(g):
    n, d = sizes(g, (300, 500), (20, 40))
    variance = torch.tensor([0.0005, 0.003, 0.03, 1.0])[torch.randint(4, (d,), generator=g)]
    variance[:4] = torch.tensor([0.0005, 0.003, 0.03, 1.0])  # each kind occurs
    return (torch.randn(n, d, generator=g) * variance.sqrt() + torch.randn(d, generator=g),)


EXERCISES = (
    Exercise(
        id="21.1",
        solution=sample_latents,
        cases=latents_case,
        mistakes=(
            Mistake(
                lambda mean, log_variance, noise: mean + log_variance.exp() * noise,
                "The noise is stretched too far: exp(log_variance) is the variance. What is the deviation?",
                "噪声放大过头了：exp(log_variance) 是方差，标准差又是什么？",
            ),
            Mistake(
                lambda mean, log_variance, noise: mean + log_variance * noise,
                "log_variance is a logarithm, and may be negative: undo the logarithm before you multiply.",
                "log_variance 是对数，可以为负：先还原再去乘噪声。",
            ),
            Mistake(
                lambda mean, log_variance, noise: mean + log_variance.sqrt() * noise,
                "The root belongs to the variance, not to its logarithm.",
                "开方的对象是方差，而不是方差的对数。",
            ),
            Mistake(
                lambda mean, log_variance, noise: mean + (log_variance / 2).exp() * noise[0],
                "Only the first draw is used: `noise` holds K of them, so the result has shape (K, B, d).",
                "只用了第一份噪声：`noise` 里有 K 份，结果的形状应为 (K, B, d)。",
            ),
        ),
        hints=(
            ("Broadcasting adds the missing dimension K for you.", "缺少的 K 这一维，广播机制会替你补上。"),
            ("The deviation is exp(log_variance / 2).", "标准差是 exp(log_variance / 2)。"),
        ),
    ),
    Exercise(
        id="21.2",
        solution=kl_between,
        cases=kl_case,
        mistakes=(
            Mistake(
                lambda mq, vq, mp, vp: kl_between(mp, vp, mq, vq),
                "This is the KL of p to q. The KL is not symmetric: the average is taken over q.",
                "这是 p 对 q 的 KL。KL 不对称：期望应当在 q 下取。",
            ),
            Mistake(
                lambda mq, vq, mp, vp: kl_between(mq, vq, mp, vp) + 0.5 * mq.shape[1],
                "Too large by 1/2 for each coordinate: two equal distributions must give 0.",
                "每个坐标都多了 1/2：两个相同的分布，KL 应当为 0。",
            ),
            Mistake(
                lambda mq, vq, mp, vp: kl_between(mq, vq, mp, vp) / mq.shape[1],
                "Averaged over coordinates: nats of independent coordinates add up.",
                "你对坐标取了平均：各坐标相互独立，奈特应当相加。",
            ),
            Mistake(
                lambda mq, vq, mp, vp: 0.5 * ((vq - vp).exp() + (mq - mp).square() - 1 - vq + vp).sum(1),
                "The distance of the means is to be measured in units of p's deviation.",
                "均值之差要以 p 的标准差为单位来量。",
            ),
            Mistake(
                lambda mq, vq, mp, vp: kl_between(mq, vq, mp, vp).mean(),
                "One number for the whole batch: the result is one KL an image, of shape (B,).",
                "整批只得到一个数：应当每张图像各有一个 KL，形状为 (B,)。",
            ),
        ),
        hints=(
            (
                "Start from the average over q of log q - log p, one coordinate at a time.",
                "从 log q - log p 在 q 下的期望出发，先算一个坐标。",
            ),
            (
                "One coordinate: half of (variance ratio + squared distance / variance of p - 1 - log of the ratio).",
                "一个坐标的结果：（方差比 + 均值差的平方 / p 的方差 - 1 - 方差比的对数）的一半。",
            ),
        ),
    ),
    Exercise(
        id="21.3",
        solution=importance_weighted_bound,
        cases=weights_case,
        mistakes=(
            Mistake(
                lambda log_weights: log_weights.mean(dim=0),
                "This is the mean of the logarithms, the ELBO. Wanted is the logarithm of the mean.",
                "这是对数的平均，也就是 ELBO；要的是平均的对数。",
            ),
            Mistake(
                lambda log_weights: torch.logsumexp(log_weights, dim=0),
                "The logarithm of the sum: what does dividing by K become under a logarithm?",
                "这是和的对数：除以 K，取对数后变成什么？",
            ),
            Mistake(
                lambda log_weights: log_weights.exp().mean(dim=0).log(),
                "exp(-240) is 0 in float32, its logarithm -inf. Pull the largest one out first: torch.logsumexp.",
                "float32 里 exp(-240) 等于 0，取对数得 -inf。先把最大的一项提出来：torch.logsumexp。",
            ),
            Mistake(
                lambda log_weights: torch.logsumexp(log_weights, dim=1) - math.log(log_weights.shape[1]),
                "The average runs over the images. It should run over the K draws, the first dimension.",
                "你对图像取了平均；应当对 K 次采样（第一维）取平均。",
            ),
        ),
        hints=(
            ("log(a / K) = log a - log K.", "log(a / K) = log a - log K。"),
            ("Lesson 01 has a function for log of a sum of exponentials.", "第 01 课讲过“指数和的对数”的稳定算法。"),
        ),
    ),
    Exercise(
        id="21.4",
        solution=count_active,
        cases=active_case,
        mistakes=(
            Mistake(
                lambda means, threshold=0.01: int((means.std(dim=0) > threshold).sum()),
                "The deviation is compared with the threshold; the definition says variance.",
                "你拿标准差和阈值比较；定义里说的是方差。",
            ),
            Mistake(
                lambda means, threshold=0.01: int((means.var(dim=1) > threshold).sum()),
                "The variance runs over the coordinates of one image. It should run over the images, dimension 0.",
                "你在一张图像的各坐标上算方差；应当在图像（第 0 维）上算。",
            ),
            Mistake(
                lambda means, threshold=0.01: int((means.square().mean(dim=0) > threshold).sum()),
                "A coordinate that is always 5 says nothing: subtract its mean first, or use var.",
                "恒等于 5 的坐标什么也没说：先减去均值，或者用 var。",
            ),
        ),
        hints=(
            ("means.var(dim=...) has one variance for each coordinate.", "means.var(dim=...) 给出每个坐标的方差。"),
            ("A comparison gives True and False; their sum counts.", "比较得到 True 和 False，求和就是计数。"),
        ),
    ),
)
