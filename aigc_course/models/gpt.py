"""The GPT of lesson 12, where each part is explained: GPT-2 by default, and a modern recipe by three options."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

OPTIONS = {"norm": ("layer", "rms"), "positions": ("learned", "rotary"), "activation": ("gelu", "relu2")}


@dataclass
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2 (Radford et al., 2019, Language Models are Unsupervised ...).

    norm: "layer" is GPT-2: LayerNorm, a bias in every layer, output projections that start small. "rms" is RMSNorm
    with no biases, output projections that start at zero, and queries and keys of one length.
    positions: "learned" vectors that are added to the tokens', or "rotary": queries and keys are turned.
    activation: "gelu" (its tanh form) or "relu2", the square of ReLU.
    Raises ValueError for an unknown option or a width that the heads cannot share.
    """

    vocab_size: int
    context_length: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    norm: str = "layer"
    positions: str = "learned"
    activation: str = "gelu"

    def __post_init__(self):
        for name, known in OPTIONS.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        if self.positions == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(f"rotary positions turn pairs: n_embd / n_head = {self.n_embd // self.n_head} is odd")


class KVCache:
    """Keys and values of the tokens read so far, in memory reserved once for `capacity` tokens.

    keys and values hold one tensor `(B, heads, capacity, head_dim)` a layer; `length` of the places are in use.
    """

    def __init__(self, model, batch_size, capacity=None):
        c = model.config
        shape = (batch_size, c.n_head, capacity or c.context_length, c.n_embd // c.n_head)
        self.keys = [model.token_embedding.weight.new_empty(shape) for _ in range(c.n_layer)]
        self.values = [torch.empty_like(keys) for keys in self.keys]
        self.length, self.capacity = 0, shape[2]

    def extend(self, layer, k, v):
        """Writes k and v `(B, heads, T, head_dim)` of new tokens; returns those of all, with T_total for T."""
        end = self.length + k.shape[2]
        keys, values = self.keys[layer][:, :, :end], self.values[layer][:, :, :end]
        keys[:, :, self.length :] = k
        values[:, :, self.length :] = v
        return keys, values

    def select(self, rows):
        """Keeps these rows of the batch, in this order; beam search drops some and doubles others."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]


def make_norm(config):
    """LayerNorm or RMSNorm over the last axis."""
    return nn.LayerNorm(config.n_embd) if config.norm == "layer" else nn.RMSNorm(config.n_embd)


class Rotary(nn.Module):
    """Rotary positions (Su et al., 2021, arXiv:2104.09864): per place, pair i turns by 10000^(-2i / head_dim)."""

    def __init__(self, config):
        super().__init__()
        head_dim = config.n_embd // config.n_head
        speeds = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)  # (head_dim / 2,)
        angles = torch.arange(config.context_length)[:, None] * speeds  # (context_length, head_dim / 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, positions):
        """cos and sin for positions `(T,)` or `(B, T)`: `(T, head_dim / 2)` or `(B, 1, T, head_dim / 2)`."""
        cos, sin = self.cos[positions], self.sin[positions]
        return (cos, sin) if positions.ndim == 1 else (cos[:, None], sin[:, None])


def rotate(x, turn):
    """Turns the pairs (x_i, x_(i + head_dim / 2)) of queries or keys `(B, heads, T, head_dim)`."""
    cos, sin = turn
    a, b = x.chunk(2, dim=-1)  # (B, heads, T, head_dim / 2) each
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Attention(nn.Module):
    """Causal multi-head self-attention on `(B, T, n_embd)`."""

    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        bias = config.norm == "layer"
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=bias)
        self.project = nn.Linear(config.n_embd, config.n_embd, bias=bias)

    def forward(self, x, mask, turn, cache):
        B, T, d = x.shape
        c, dropout = self.config, self.config.dropout if self.training else 0.0
        qkv = self.qkv(x).view(B, T, 3, c.n_head, d // c.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, head_dim) each
        if c.norm == "rms":
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, heads, T_total, head_dim)
        causal = mask is None and T > 1  # one query alone may see every key
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        x = x.transpose(1, 2).reshape(B, T, d)  # (B, heads, T, head_dim) -> (B, T, n_embd)
        return F.dropout(self.project(x), dropout)


class MLP(nn.Module):
    """Four times as wide inside, for each token alone: `(B, T, n_embd)` to the same shape."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        bias = config.norm == "layer"
        self.widen = nn.Linear(config.n_embd, 4 * config.n_embd, bias=bias)
        self.project = nn.Linear(4 * config.n_embd, config.n_embd, bias=bias)

    def forward(self, x):
        x = self.widen(x)  # (B, T, 4 n_embd)
        x = F.gelu(x, approximate="tanh") if self.config.activation == "gelu" else F.relu(x).square()
        return F.dropout(self.project(x), self.config.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP, each added to what comes in and each behind a norm of its own."""

    def __init__(self, config, layer):
        super().__init__()
        self.norm_1, self.attention = make_norm(config), Attention(config, layer)
        self.norm_2, self.mlp = make_norm(config), MLP(config)

    def forward(self, x, mask, turn, cache):
        x = x + self.attention(self.norm_1(x), mask, turn, cache)
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    """A decoder-only Transformer: token numbers in, at each place the logits of the token that comes next."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        else:
            self.rotary = Rotary(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = make_norm(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight  # tied: one table for both ends
        initialise(self)

    def forward(self, input_ids, *, attention_mask=None, cache=None):
        """Logits `(B, T, vocab_size)` for input_ids, int64 `(B, T)`; the rest as in `look`."""
        return self.head(self.hidden(input_ids, attention_mask=attention_mask, cache=cache))

    def hidden(self, input_ids, *, attention_mask=None, cache=None):
        """What the head reads, `(B, T, n_embd)`; decoding needs `head(hidden(...)[:, -1])` only."""
        positions, mask = look(self.config, input_ids, attention_mask, cache)
        x, turn = self.token_embedding(input_ids), None  # (B, T, n_embd)
        if self.config.positions == "learned":
            x = x + self.position_embedding(positions)
        else:
            turn = self.rotary(positions)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, mask, turn, cache)
        if cache is not None:
            cache.length += input_ids.shape[1]
        return self.norm(x)


def initialise(model):
    """Normal weights of deviation 0.02, zero biases; output projections by the recipe (see GPTConfig)."""
    small = 0.0 if model.config.norm == "rms" else 0.02 / math.sqrt(2 * model.config.n_layer)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=small if name.endswith("project.weight") else 0.02)


def look(config, input_ids, attention_mask=None, cache=None):
    """Where the new tokens input_ids `(B, T)` stand and what they see: (positions, mask).

    attention_mask: `(B, T_total)`, 1 for tokens and 0 for padding on the left; T_total counts the cache's tokens too.
    positions: `(T,)`, or `(B, T)` that count real tokens only. mask: True where a query may see a key, `(T, T_total)`
    or `(B, 1, T, T_total)`; None where plain causality is enough. cache: a KVCache, for use under `torch.no_grad()`.
    Raises ValueError when T_total is more than context_length or the cache's capacity, or not the mask's.
    """
    T, past, device = input_ids.shape[1], 0 if cache is None else cache.length, input_ids.device
    total = past + T
    if total > config.context_length:
        raise ValueError(f"{total} tokens are more than context_length {config.context_length}")
    if cache is not None and total > cache.capacity:
        raise ValueError(f"{total} tokens are more than the cache's capacity {cache.capacity}")
    if attention_mask is None:
        positions = torch.arange(past, total, device=device)
        mask = None if T in (1, total) else torch.ones(T, total, dtype=torch.bool, device=device).tril(past)
        return positions, mask
    if attention_mask.shape[1] != total:
        raise ValueError(f"attention_mask covers {attention_mask.shape[1]} tokens, the sequence has {total}")
    real = attention_mask.bool()
    positions = (real.cumsum(1) - 1).clamp(min=0)[:, past:]
    same = real[:, None, past:, None] == real[:, None, None, :]  # padding sees padding: no query sees nothing
    return positions, same & torch.ones(T, total, dtype=torch.bool, device=device).tril(past)


def count_parameters(config):
    """How many numbers a GPT of this shape learns, by formula; the tied head counts once."""
    d, layer_norm = config.n_embd, config.norm == "layer"
    block = 12 * d * d + (13 * d if layer_norm else 2 * d)
    places = config.context_length if config.positions == "learned" else 0
    return (config.vocab_size + places) * d + config.n_layer * block + (2 * d if layer_norm else d)


GPT2_NAMES = {
    "token_embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "blocks": "transformer.h",
    "norm_1": "ln_1",
    "norm_2": "ln_2",
    "attention.qkv": "attn.c_attn",
    "attention.project": "attn.c_proj",
    "mlp.widen": "mlp.c_fc",
    "mlp.project": "mlp.c_proj",
    "head": "lm_head",
}
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # transformers' Conv1D keeps (in, out)


def name_in_gpt2(name):
    """The name in transformers' GPT2LMHeadModel of a parameter of GPT."""
    if name.startswith("norm."):
        return name.replace("norm", "transformer.ln_f")
    for ours, theirs in GPT2_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def as_transformers(model):
    """A transformers.GPT2LMHeadModel in evaluation mode with copies of the weights of `model`.

    Raises ValueError for a GPT that is not the default variant. The result knows no end token.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    c = model.config
    if (c.norm, c.positions, c.activation) != ("layer", "learned", "gelu"):
        raise ValueError(
            f"GPT-2 has layer norm, learned positions and gelu, not {c.norm}, {c.positions}, {c.activation}"
        )
    shape = GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head,
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(shape).eval()
    weights = {name_in_gpt2(name): value for name, value in model.state_dict().items()}
    theirs.load_state_dict({name: value.T if name.endswith(TRANSPOSED) else value for name, value in weights.items()})
    return theirs
