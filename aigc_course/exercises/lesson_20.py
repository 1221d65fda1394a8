"""Exercises of lesson 20, the evidence lower bound."""

import math

import torch

from . import Exercise, Mistake


def log_weight_of(log_likelihood, z, mean, log_variance):
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(dim=1)
    distance = (z - mean).square() / log_variance.exp()
    log_q = -0.5 * (distance + log_variance + math.log(2 * math.pi)).sum(dim=1)
    return log_likelihood + log_prior - log_q


def diagonal_gap(W, noise_variance):
    precision = torch.eye(W.shape[1]) + W.T @ W / noise_variance  # (d, d), of the posterior
    return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))


def leave_one_out_gradient(f, z, mean, deviation):
    others = (f.sum() - f) / (len(f) - 1)  # (k,): for each draw the mean of the other f
    score = (z - mean) / deviation.square()  # (k, d): gradient of log q in the mean
    return ((f - others)[:, None] * score).mean(dim=0)


def effective_draws(log_weights):
    return (2 * torch.logsumexp(log_weights, dim=0) - torch.logsumexp(2 * log_weights, dim=0)).exp()


# --- wrong answers that take more than a line ---


def normal_log_prob(z, mean, deviation):
    """log N(z; mean, deviation^2), summed over coordinates: `(k,)`."""
    return -0.5 * (((z - mean) / deviation).square() + math.log(2 * math.pi)).sum(1) - deviation.abs().log().sum()


def prior_forgotten(log_likelihood, z, mean, log_variance):
    return log_likelihood - normal_log_prob(z, mean, (log_variance / 2).exp())


def variance_as_deviation(log_likelihood, z, mean, log_variance):
    return log_likelihood + normal_log_prob(z, 0 * mean, 0 * mean + 1) - normal_log_prob(z, mean, log_variance.exp())


def log_variance_as_deviation(log_likelihood, z, mean, log_variance):
    return log_likelihood + normal_log_prob(z, 0 * mean, 0 * mean + 1) - normal_log_prob(z, mean, log_variance)


def q_added(log_likelihood, z, mean, log_variance):
    log_prior, log_q = normal_log_prob(z, 0 * mean, 0 * mean + 1), normal_log_prob(z, mean, (log_variance / 2).exp())
    return log_likelihood + log_prior + log_q


def q_forgotten(log_likelihood, z, mean, log_variance):
    return log_likelihood + normal_log_prob(z, 0 * mean, 0 * mean + 1)


def determinant_forgotten(log_likelihood, z, mean, log_variance):
    return log_weight_of(log_likelihood, z, mean, log_variance) - 0.5 * log_variance.sum()


def gap_of_covariance(W, noise_variance):
    covariance = torch.linalg.inv(torch.eye(W.shape[1]) + W.T @ W / noise_variance)
    return 0.5 * (covariance.diagonal().log().sum() - torch.logdet(covariance))


def gap_without_prior(W, noise_variance):
    precision = W.T @ W / noise_variance
    return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))


def gradient_with(f, z, mean, deviation, baseline, power=2):
    return ((f - baseline)[:, None] * (z - mean) / deviation**power).mean(dim=0)


# --- inputs ---


def sizes(g, *ranges):
    """One random whole number from each (low, high)."""
    return [int(torch.randint(low, high + 1, (), generator=g)) for low, high in ranges]


def weight_case(g):
    k, d = sizes(g, (3, 8), (2, 6))
    mean, log_variance = torch.randn(d, generator=g), -0.5 - 1.5 * torch.rand(d, generator=g)
    z = mean + (log_variance / 2).exp() * torch.randn(k, d, generator=g)
    return 5 * torch.randn(k, generator=g) - 60, z, mean, log_variance


def gap_case(g):
    D, d = sizes(g, (8, 12), (3, 6))  # with two coordinates the gap of the covariance is the same
    W = torch.randn(D, d, generator=g) + torch.randn(D, 1, generator=g)  # columns that have something in common
    return W, float(2 + 2 * torch.rand((), generator=g))


def score_case(g):
    k, d = sizes(g, (3, 6), (2, 5))
    deviation = 0.3 + 0.4 * torch.rand(d, generator=g)
    mean = torch.randn(d, generator=g)
    f = 3 * torch.randn(k, generator=g) - 20
    return f, mean + deviation * torch.randn(k, d, generator=g), mean, deviation


def effective_case(g):
    k, b = sizes(g, (4, 9), (2, 3))
    return (1.5 * torch.randn(k, b, generator=g) - 240,)


EXERCISES = (
    Exercise(
        id="20.1",
        solution=log_weight_of,
        cases=weight_case,
        mistakes=(
            Mistake(
                q_forgotten,
                "This is log p(x, z). The weight divides it by q(z).",
                "这是 log p(x, z)。权重还要除以 q(z)。",
            ),
            Mistake(
                q_added,
                "log q is added: under a logarithm, dividing by q means taking log q away.",
                "你加上了 log q；除以 q，取对数后应当是减去 log q。",
            ),
            Mistake(
                prior_forgotten,
                "log p(z) is missing: p(x, z) = p(x | z) p(z).",
                "漏了 log p(z)：p(x, z) = p(x | z) p(z)。",
            ),
            Mistake(
                variance_as_deviation,
                "exp(log_variance) is the variance of q; what is its deviation?",
                "exp(log_variance) 是 q 的方差，那标准差呢？",
            ),
            Mistake(
                log_variance_as_deviation,
                "log_variance is a logarithm: undo it before you divide.",
                "log_variance 是对数，先还原，再拿去除。",
            ),
            Mistake(
                determinant_forgotten,
                "A narrow Gaussian is high: its density has a factor 1 / deviation for each coordinate.",
                "越窄的高斯分布越高：每个坐标的密度都有一个因子 1 / 标准差。",
            ),
        ),
        hints=(
            ("log w = log p(x | z) + log p(z) - log q(z).", "log w = log p(x | z) + log p(z) - log q(z)。"),
            (
                "Both Gaussians: minus half of (squared distance / variance + log variance + log 2π), summed over d.",
                "两个高斯密度都是：（距离平方 / 方差 + 对数方差 + log 2π）的一半取负，再对 d 求和。",
            ),
        ),
    ),
    Exercise(
        id="20.2",
        solution=diagonal_gap,
        cases=gap_case,
        mistakes=(
            Mistake(
                gap_of_covariance,
                "This is the formula with the covariance; it wants the precision, its inverse.",
                "这里代入的是协方差；公式要的是精度矩阵，也就是它的逆。",
            ),
            Mistake(
                gap_without_prior,
                "The prior is missing: it adds the identity to the precision.",
                "漏了先验：它给精度矩阵加上一个单位阵。",
            ),
            Mistake(
                lambda W, noise_variance: diagonal_gap(W, 1.0),
                "The noise of the pixels has to come in: a noisy picture says less about z.",
                "没有用到像素噪声的方差：噪声越大，图像对 z 说得越少。",
            ),
            Mistake(
                lambda W, noise_variance: diagonal_gap(W, noise_variance**2),
                "It is divided by the square of the variance: `noise_variance` is a variance already.",
                "你除以了方差的平方：`noise_variance` 本身已经是方差。",
            ),
            Mistake(
                lambda W, noise_variance: 2 * diagonal_gap(W, noise_variance),
                "Twice too large: remember the one half in the KL of two Gaussians.",
                "大了一倍：两个高斯分布的 KL 前面有二分之一。",
            ),
            Mistake(
                lambda W, noise_variance: -diagonal_gap(W, noise_variance),
                "The sign is wrong: a KL divergence is never negative.",
                "符号反了：KL 散度不会是负数。",
            ),
        ),
        hints=(
            ("First the precision of the posterior, (20.18).", "先求后验的精度矩阵，见 (20.18)。"),
            (
                "precision = torch.eye(d) + W.T @ W / noise_variance; then .diagonal() and torch.logdet.",
                "precision = torch.eye(d) + W.T @ W / noise_variance；再用 .diagonal() 和 torch.logdet。",
            ),
        ),
    ),
    Exercise(
        id="20.3",
        solution=leave_one_out_gradient,
        cases=score_case,
        mistakes=(
            Mistake(
                lambda f, z, mean, deviation: gradient_with(f, z, mean, deviation, f.mean()),
                "The baseline is the mean of all f, the draw's own included: that shrinks the gradient.",
                "基线用了全部 f 的平均，连这次抽样自己的也算进去了，梯度因此偏小。",
            ),
            Mistake(
                lambda f, z, mean, deviation: gradient_with(f, z, mean, deviation, (f.sum() - f) / len(f)),
                "One is left out of the sum, but the sum is divided by k: how many are the others?",
                "求和时去掉了一个，却仍除以 k：“其余的”一共有几个？",
            ),
            Mistake(
                lambda f, z, mean, deviation: gradient_with(f, z, mean, deviation, 0.0),
                "There is no baseline here.",
                "没有减去基线。",
            ),
            Mistake(
                lambda f, z, mean, deviation: gradient_with(f, z, mean, deviation, (f.sum() - f) / (len(f) - 1), 1),
                "The gradient of log q in the mean is (z - mean) / deviation**2.",
                "log q 对均值的梯度是 (z - mean) / deviation**2。",
            ),
            Mistake(
                lambda f, z, mean, deviation: -leave_one_out_gradient(f, z, mean, deviation),
                "The sign is wrong: a z above the mean with a large f should pull the mean up.",
                "符号反了：z 大于均值而 f 又大时，均值应当被往上拉。",
            ),
            Mistake(
                lambda f, z, mean, deviation: len(f) * leave_one_out_gradient(f, z, mean, deviation),
                "Summed over the draws: an expectation is estimated by a mean.",
                "你对各次抽样求了和；估计期望要用平均。",
            ),
        ),
        hints=(
            (
                "The sum of all f minus a draw's own is the sum of the others.",
                "全部 f 之和减去自己的那个，就是其余 f 之和。",
            ),
            (
                "(f - others)[:, None] has shape (k, 1) and meets the score, (k, d); then the mean over dimension 0.",
                "(f - others)[:, None] 的形状是 (k, 1)，与形状为 (k, d) 的得分函数相乘，再对第 0 维取平均。",
            ),
        ),
    ),
    Exercise(
        id="20.4",
        solution=effective_draws,
        cases=effective_case,
        mistakes=(
            Mistake(
                lambda log_weights: log_weights.exp().sum(0).square() / log_weights.exp().square().sum(0),
                "exp(-240) is 0 in float32, and 0 / 0 is NaN. Stay with logarithms: torch.logsumexp.",
                "float32 里 exp(-240) 等于 0，而 0 / 0 得 NaN。留在对数里算：torch.logsumexp。",
            ),
            Mistake(
                lambda log_weights: 2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0),
                "This is the logarithm of the effective sample size.",
                "这是有效样本数的对数。",
            ),
            Mistake(
                lambda log_weights: effective_draws(log_weights.T),
                "The sum runs over the pictures. It should run over the draws, the first dimension.",
                "你对图像求了和；应当对抽样（第一维）求和。",
            ),
            Mistake(
                lambda log_weights: 1 / effective_draws(log_weights),
                "Upside down: with k equal weights the answer is k.",
                "上下颠倒了：k 个权重都相等时，结果应为 k。",
            ),
            Mistake(
                lambda log_weights: effective_draws(log_weights) / len(log_weights),
                "This is the share of the draws that count; wanted is their number.",
                "这是有效抽样所占的比例；要的是个数。",
            ),
        ),
        hints=(
            ("Take the logarithm of the fraction, and the exponential at the end.", "先对分式取对数，最后再取指数。"),
            (
                "log of the sum of w is torch.logsumexp(log_weights, 0); log of w squared is 2 * log_weights.",
                "w 之和的对数是 torch.logsumexp(log_weights, 0)；w 平方的对数是 2 * log_weights。",
            ),
        ),
    ),
)
