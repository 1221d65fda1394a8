"""Exercises of lesson 01, cross-entropy."""

import math

import torch
import torch.nn.functional as F

from .core import Exercise, Mistake


def draw(g, low, high):
    """A random integer from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=g))


# --- 01.1 price in bits ---


def bits_per_symbol(logits, labels):
    return F.cross_entropy(logits, labels) / math.log(2)


def bits_cases(g):
    n, k = draw(g, 4, 20), draw(g, 3, 12)
    logits = torch.randn(n, k, generator=g) * 3
    labels = torch.randint(k, (n,), generator=g)
    logits[0, (labels[0] + 1) % k] += 300  # one answer is far off: its probability is 0 in float32
    return logits, labels


def bits_in_nats(logits, labels):
    return F.cross_entropy(logits, labels)


def bits_multiplied(logits, labels):
    return F.cross_entropy(logits, labels) * math.log(2)


def bits_summed(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum") / math.log(2)


def bits_of_probabilities(logits, labels):
    return -logits.softmax(1).log2().gather(1, labels[:, None]).mean()


def bits_softmax_twice(logits, labels):
    return F.cross_entropy(logits.softmax(1), labels) / math.log(2)


# --- 01.2 perplexity of a padded batch ---


def perplexity_of_batch(nll, mask):
    return ((nll * mask).sum() / mask.sum()).exp()


def perplexity_cases(g):
    b, t = draw(g, 3, 6), draw(g, 6, 15)
    lengths = torch.randint(2, t, (b,), generator=g)
    lengths[0], lengths[1] = 1, t  # lengths differ, so that the order of averaging shows
    mask = (torch.arange(t) < lengths[:, None]).float()
    nll = torch.rand(b, t, generator=g) * 2 + 0.5
    nll[0] += 2  # the short sentence is the dearest
    return nll, mask


def perplexity_with_padding(nll, mask):
    return nll.mean().exp()


def perplexity_padding_as_zero(nll, mask):
    return (nll * mask).mean().exp()


def perplexity_mean_of_sentences(nll, mask):
    return ((nll * mask).sum(1) / mask.sum(1)).exp().mean()


def perplexity_sentences_alike(nll, mask):
    return ((nll * mask).sum(1) / mask.sum(1)).mean().exp()


def perplexity_of_tokens(nll, mask):
    return (nll.exp() * mask).sum() / mask.sum()


def perplexity_no_exp(nll, mask):
    return (nll * mask).sum() / mask.sum()


# --- 01.3 KL from logits ---


def kl_from_logits(data_logits, model_logits):
    log_data, log_model = data_logits.log_softmax(-1), model_logits.log_softmax(-1)
    return (log_data.exp() * (log_data - log_model)).sum(-1)


def kl_cases(g):
    b, k = draw(g, 2, 7), draw(g, 3, 9)
    data, model = torch.randn(2, b, k, generator=g) * 2
    data[0, 0] += 200  # in this row all other probabilities are 0 in float32, on both sides
    model[0, 1] += 200
    return data, model


def kl_swapped(data_logits, model_logits):
    return kl_from_logits(model_logits, data_logits)


def kl_difference_of_logs(data_logits, model_logits):
    p, q = data_logits.softmax(-1), model_logits.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def kl_cross_entropy(data_logits, model_logits):
    return -(data_logits.softmax(-1) * model_logits.log_softmax(-1)).sum(-1)


def kl_unnormalised(data_logits, model_logits):
    return (data_logits.softmax(-1) * (data_logits - model_logits)).sum(-1)


def kl_one_number(data_logits, model_logits):
    return kl_from_logits(data_logits, model_logits).mean()


# --- 01.4 gradient with label smoothing ---


def smoothed_gradient(logits, labels, epsilon):
    batch, classes = logits.shape
    target = (1 - epsilon) * F.one_hot(labels, classes) + epsilon / classes
    return (logits.softmax(1) - target) / batch


def gradient_cases(g):
    b, k = draw(g, 3, 8), draw(g, 3, 9)
    epsilon = 0.1 + 0.3 * torch.rand((), generator=g).item()
    return torch.randn(b, k, generator=g) * 2, torch.randint(k, (b,), generator=g), epsilon


def gradient_of_sum(logits, labels, epsilon):
    return smoothed_gradient(logits, labels, epsilon) * len(logits)


def gradient_uphill(logits, labels, epsilon):
    return -smoothed_gradient(logits, labels, epsilon)


def gradient_hard(logits, labels, epsilon):
    return smoothed_gradient(logits, labels, 0.0)


def gradient_others_only(logits, labels, epsilon):
    batch, classes = logits.shape
    hard = F.one_hot(labels, classes)
    target = (1 - epsilon) * hard + epsilon / (classes - 1) * (1 - hard)
    return (logits.softmax(1) - target) / batch


def gradient_not_normalised(logits, labels, epsilon):
    batch, classes = logits.shape
    return (logits.softmax(1) - F.one_hot(labels, classes) - epsilon / classes) / batch


def gradient_of_logits(logits, labels, epsilon):
    batch, classes = logits.shape
    target = (1 - epsilon) * F.one_hot(labels, classes) + epsilon / classes
    return (logits - target) / batch


# --- 01.5 the temperature for a perplexity ---


def temperature_for(logits, target):
    low, high = 1e-3, 1e3
    for _ in range(100):
        middle = math.sqrt(low * high)  # halves the interval on a logarithmic scale
        log_p = (logits / middle).log_softmax(0)
        entropy = -(log_p.exp() * log_p).sum().item()
        if math.exp(entropy) < target:
            low = middle
        else:
            high = middle
    return middle


def temperature_cases(g):
    logits = torch.randn(draw(g, 8, 15), generator=g) * 3
    log_p = (logits / (0.5 + torch.rand((), generator=g))).log_softmax(0)  # a target that can be reached
    return logits, (-(log_p.exp() * log_p).sum()).exp().item()


def temperature_by(too_low):
    """The answer of somebody who raises the temperature where `too_low(entropy, target)` says so."""

    def temperature_for(logits, target):
        low, high = 1e-3, 1e3
        for _ in range(100):
            middle = math.sqrt(low * high)
            log_p = (logits / middle).log_softmax(0)
            rise = too_low(-(log_p.exp() * log_p).sum().item(), target)
            low, high = (middle, high) if rise else (low, middle)
        return middle

    return temperature_for


def temperature_inverse(logits, target):
    return 1 / temperature_for(logits, target)


temperature_of_entropy = temperature_by(lambda entropy, target: entropy < target)
temperature_base_two = temperature_by(lambda entropy, target: 2**entropy < target)
temperature_wrong_way = temperature_by(lambda entropy, target: math.exp(entropy) > target)


EXERCISES = (
    Exercise(
        id="01.1",
        solution=bits_per_symbol,
        cases=bits_cases,
        mistakes=(
            Mistake(
                bits_in_nats,
                "That is in nats: how many bits is one nat?",
                "这是以奈特为单位的结果：1 奈特等于多少比特？",
            ),
            Mistake(
                bits_multiplied,
                "A bit is smaller than a nat, so the number of bits must be larger than that of nats.",
                "比特比奈特小，所以换成比特之后数值应当变大。",
            ),
            Mistake(
                bits_summed,
                "That is the price of all symbols together: take the average.",
                "这是所有符号的代价之和：要的是平均值。",
            ),
            Mistake(
                bits_of_probabilities,
                "A probability became 0 in float32, and its logarithm infinite: start from the logits.",
                "有的概率在 float32 里变成了 0，取对数就成了无穷大：应从 logits 直接计算。",
            ),
            Mistake(
                bits_softmax_twice,
                "F.cross_entropy applies a softmax itself: give it the logits.",
                "F.cross_entropy 内部已经做了 softmax：直接传入 logits。",
            ),
        ),
        hints=(
            ("In nats, torch has a function for it.", "若以奈特为单位，torch 里有现成的函数。"),
            ("-log2 p is -log p divided by the natural logarithm of 2.", "-log2 p 等于 -log p 除以 2 的自然对数。"),
        ),
    ),
    Exercise(
        id="01.2",
        solution=perplexity_of_batch,
        cases=perplexity_cases,
        mistakes=(
            Mistake(
                perplexity_with_padding,
                "Padding is counted as text: what is the mask for?",
                "填充也被当成文本算进去了：掩码是做什么用的？",
            ),
            Mistake(
                perplexity_padding_as_zero,
                "The padding costs nothing now, but it still counts as tokens: divide by the number of real ones.",
                "填充的代价已经是零，但分母里还数着它：应除以真实词元的个数。",
            ),
            Mistake(
                perplexity_mean_of_sentences,
                "That is the mean of the sentences' perplexities: average over tokens first, take exp last.",
                "这是各句困惑度的平均：应先对词元求平均，最后才取指数。",
            ),
            Mistake(
                perplexity_sentences_alike,
                "A sentence of one token weighs as much as a long one here: average over all tokens at once.",
                "这样一来，只有一个词元的句子和长句一样重：应对全部词元一次性求平均。",
            ),
            Mistake(
                perplexity_of_tokens,
                "The exponential comes after the average, not before.",
                "应先求平均再取指数，而不是先取指数。",
            ),
            Mistake(
                perplexity_no_exp,
                "That is the average price in nats: perplexity is its exponential.",
                "这是以奈特为单位的平均代价：困惑度是它的指数。",
            ),
        ),
        hints=(
            ("How many real tokens are there in the whole batch?", "整个批量里一共有多少个真实词元？"),
            (
                "Total price of the real tokens, divided by their number; then the exponential.",
                "真实词元的总代价除以它们的个数，再取指数。",
            ),
        ),
    ),
    Exercise(
        id="01.3",
        solution=kl_from_logits,
        cases=kl_cases,
        mistakes=(
            Mistake(
                kl_swapped,
                "That is KL(model || data): the data must do the averaging. (F.kl_div takes log of the model first.)",
                "这是 KL(模型 || 数据)：应当按数据分布求平均。（F.kl_div 的第一个参数是模型概率的对数。）",
            ),
            Mistake(
                kl_difference_of_logs,
                "Some probabilities are 0 in float32, and their logarithm is lost: use log_softmax.",
                "有的概率在 float32 里变成了 0，对数就丢失了：请用 log_softmax。",
            ),
            Mistake(
                kl_cross_entropy,
                "That is the cross-entropy: subtract the entropy of the data.",
                "这是交叉熵：还要减去数据的熵。",
            ),
            Mistake(
                kl_unnormalised,
                "Logits are not yet logarithms of probabilities: the log-sum-exp of each side is missing.",
                "logits 还不是概率的对数：两边都少减了各自的 log-sum-exp。",
            ),
            Mistake(
                kl_one_number,
                "Give one number for each row, shape (B,): sum over the classes only.",
                "每一行要给出一个数，形状为 (B,)：只对类别求和。",
            ),
        ),
        hints=(
            (
                "Write KL as an average of log p_data - log p_theta. Who averages?",
                "把 KL 写成 log p_data - log p_theta 的平均。按谁来平均？",
            ),
            (
                "log_softmax gives both logarithms safely; exp of the first gives the weights.",
                "用 log_softmax 可以稳妥地得到两个对数；对第一个取 exp 就是权重。",
            ),
        ),
    ),
    Exercise(
        id="01.4",
        solution=smoothed_gradient,
        cases=gradient_cases,
        mistakes=(
            Mistake(
                gradient_of_sum,
                "That is the gradient of the sum: the mean loss divides by the batch size.",
                "这是总和的梯度：平均损失还要除以批量大小。",
            ),
            Mistake(gradient_uphill, "The sign: prediction minus truth.", "符号反了：是预测减真值。"),
            Mistake(
                gradient_hard, "Where is epsilon? The label is not smoothed.", "epsilon 用在哪里了？标签还没有平滑。"
            ),
            Mistake(
                gradient_others_only,
                "Here epsilon is spread over all K classes, the true one included.",
                "这里的 epsilon 平均分给全部 K 个类别，正确类别也有一份。",
            ),
            Mistake(
                gradient_not_normalised,
                "The smoothed label must sum to 1: what is given to all is taken from the true class.",
                "平滑后的标签之和应为 1：分给大家的那一份，要从正确类别里拿出来。",
            ),
            Mistake(
                gradient_of_logits,
                "Subtract from the probabilities, not from the logits.",
                "应当用概率去减，而不是用 logits。",
            ),
        ),
        hints=(
            ("Equation (01.20) is for one example.", "式 (01.20) 是单个样本的情形。"),
            (
                "Target: (1 - epsilon) * one_hot + epsilon / K. Then softmax minus target, over the batch size.",
                "目标是 (1 - epsilon) * one_hot + epsilon / K；再用 softmax 减去它，除以批量大小。",
            ),
        ),
    ),
    Exercise(
        id="01.5",
        solution=temperature_for,
        cases=temperature_cases,
        mistakes=(
            Mistake(
                temperature_inverse,
                "That is 1 / tau: a high temperature divides the logits and flattens.",
                "这是 1 / tau：温度高时是用它去除 logits，分布变平。",
            ),
            Mistake(
                temperature_of_entropy,
                "You hit the entropy: the perplexity is its exponential.",
                "你对准的是熵：困惑度是熵的指数。",
            ),
            Mistake(
                temperature_base_two,
                "Entropy in nats goes with exp, entropy in bits with powers of 2; do not mix them.",
                "以奈特为单位的熵配 exp，以比特为单位的熵配 2 的幂，不能混用。",
            ),
            Mistake(
                temperature_wrong_way,
                "The halves are mixed up: if the perplexity is too low, the temperature must rise.",
                "取错了半边：困惑度偏低时，温度应当升高。",
            ),
        ),
        hints=(
            (
                "Write the perplexity of softmax(logits / tau) as a function first.",
                "先写一个函数，计算 softmax(logits / tau) 的困惑度。",
            ),
            (
                "Start from tau between 0.001 and 1000, try the middle, keep the half that holds the target; 60 times.",
                "从 tau 在 0.001 到 1000 之间开始，试中点，留下包含目标的那一半，重复 60 次。",
            ),
        ),
        rtol=1e-2,
    ),
)
