"""Lesson 15's ways to fine-tune a GPT-2 of transformers with few parameters: LoRA, adapters, a prefix."""

import itertools
import math

import torch
import torch.nn.functional as F
from peft import AdaLoraConfig, get_peft_model
from torch import nn
from transformers import DynamicCache

from aigc_course.data import Batches
from aigc_course.finetuning import pack, warmup_to_zero
from aigc_course.training import train


class LoRA(nn.Module):
    """A layer plus a learned change of rank r (Hu et al., 2021, arXiv:2106.09685).

    layer: a Conv1D of transformers, whose weight is (in, out). A is (r, in), B is (out, r) and starts at zero.
    """

    def __init__(self, layer, r, alpha):
        super().__init__()
        d_in, d_out = layer.weight.shape
        self.layer, self.scale = layer, alpha / r
        self.A = nn.Parameter(torch.randn(r, d_in) / math.sqrt(d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))

    def forward(self, x):
        return self.layer(x) + self.scale * (x @ self.A.T @ self.B.T)  # (B, T, in) -> (B, T, r) -> (B, T, out)


class Adapter(nn.Module):
    """h plus a detour through m numbers, which starts at zero (Houlsby et al., 2019, arXiv:1902.00751)."""

    def __init__(self, d, m):
        super().__init__()
        self.down, self.up = nn.Linear(d, m), nn.Linear(m, d)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h):
        return h + self.up(F.gelu(self.down(h)))  # (B, T, d) -> (B, T, m) -> (B, T, d)


class Prefix(nn.Module):
    """A model whose every layer finds n learned keys and values before the text (Li and Liang, 2021, arXiv:2101.00190).

    keys, values: `(layers, heads, n, head_dim)`. The tokens of the text keep their positions, which count from 0.
    """

    def __init__(self, model, keys, values):
        super().__init__()
        self.model, self.device = model, model.device
        self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)

    def past(self, batch_size):
        """The prefix as the cache of a text that has been read, for a batch."""
        cache = DynamicCache()
        for layer, pair in enumerate(zip(self.keys, self.values)):
            cache.update(*(x.expand(batch_size, -1, -1, -1) for x in pair), layer)
        return cache

    def forward(self, input_ids, attention_mask, position_ids=None, labels=None):
        prefix = attention_mask.new_ones(*attention_mask.shape[:-1], self.keys.shape[2])  # every token sees it
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        return self.model(
            input_ids, attention_mask=torch.cat((prefix, attention_mask), -1), position_ids=position_ids,
            past_key_values=self.past(len(input_ids)), labels=labels,
        )  # fmt: skip


def freeze(model):
    """No parameter of the model is trained any more; returns the model."""
    return model.requires_grad_(False)


def add_lora(model, r, alpha):
    """Freezes the model and gives the layer that makes queries, keys and values in every block a LoRA."""
    freeze(model)
    for block in model.transformer.h:
        block.attn.c_attn = LoRA(block.attn.c_attn, r, alpha).to(model.device)
    return model


def add_adapters(model, after_attention, after_mlp):
    """Freezes the model and puts two adapters of these widths into every block, before each residual sum."""
    freeze(model)
    for block in model.transformer.h:
        for part, m in ((block.attn, after_attention), (block.mlp, after_mlp)):
            part.c_proj = nn.Sequential(part.c_proj, Adapter(model.config.n_embd, m).to(model.device))
    return model


@torch.no_grad()
def add_prefix(model, input_ids):
    """Freezes the model and gives it a prefix that starts as the keys and values of a text, int64 `(n,)`."""
    layers = freeze(model)(input_ids[None].to(model.device), use_cache=True).past_key_values.layers
    return Prefix(model, torch.cat([x.keys for x in layers]), torch.cat([x.values for x in layers]))


def count_trainable(model):
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def add_adalora(model, r, alpha, steps):
    """AdaLoRA by peft on the same layers (Zhang et al., 2023, arXiv:2303.10512): from rank 3r/2 to r on average.

    The ranks fall from a tenth of the `steps` on, and stay from six tenths on. Returns peft's model.
    """
    return get_peft_model(model, AdaLoraConfig(
        init_r=r + r // 2, target_r=r, lora_alpha=alpha, tinit=steps // 10, tfinal=steps - 6 * steps // 10, deltaT=5,
        total_step=steps, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM",
    ))  # fmt: skip


def train_adalora(model, rows, *, rate, batch_size, seed=0):
    """One epoch of AdaLoRA; its ranks are given out anew after each step of the optimiser. Returns the History."""
    batches = Batches(
        torch.arange(len(rows)), batch_size=batch_size, seed=seed,
        prepare=lambda chosen: pack([rows[i] for i in chosen]),
    )  # fmt: skip
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0)
    done = itertools.count(1)
    optimizer.register_step_post_hook(lambda *_: model.base_model.update_and_allocate(next(done)))
    return train(
        lambda batch: model(**batch).loss, model, batches, optimizer=optimizer, steps=batches.per_epoch,
        schedule=warmup_to_zero, clip_norm=1.0,
    )  # fmt: skip


def ranks(model):
    """The rank that AdaLoRA left to each layer: its singular values that are not zero."""
    return [int((block.attn.c_attn.lora_E["default"] != 0).sum()) for block in model.get_base_model().transformer.h]
