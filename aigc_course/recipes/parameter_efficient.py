"""Lesson 15's ways to fine-tune, side by side: `python -m aigc_course.recipes.parameter_efficient --seeds 0 1 2`.

Each method trains GPT-2 mini for one epoch on the same 2,000 critics' snippets; its learning rate is searched with the
first seed, by the perplexity of 250 validation snippets. Written to data/results/parameter_efficient.json: "before"
(perplexities of the base), "search" (every rate tried), "seeds" (at the rate chosen: perplexities of the test snippets
and of reviews from the pretraining's validation part, which tell what was forgotten; nothing is chosen by these two),
"cost" (memory, operations and time of a step, each method in a process of its own). What is done is kept beside the
checkpoints: a run that was killed goes on and ends with the same figures.
"""

import argparse
import copy
import hashlib
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from aigc_course.data import Batches, published_sum
from aigc_course.files import write_atomically
from aigc_course.finetuning import encode_snippets, fine_tune, nats_per_token, pack, set_dropout, snippets
from aigc_course.models.adapters import (
    add_adalora,
    add_adapters,
    add_lora,
    add_prefix,
    count_trainable,
    freeze,
    ranks,
    train_adalora,
)
from aigc_course.paths import own_folder
from aigc_course.pretrained import load_language_model, pretraining_reviews
from aigc_course.recipes.results import write_results
from aigc_course.runtime import pick_device, quiet, seed_everything
from aigc_course.training import TrainingDiverged

R, ALPHA = 8, 16  # the rank that sets the budget of all four
TRAINING, VALIDATION, REVIEWS, BATCH_SIZE = 2000, 250, 60, 8  # snippets, snippets, reviews, snippets a step
COST_STEPS = 12  # steps whose memory and time are measured
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
FIRST_RATE = {  # where the search begins, and which methods there are
    "full": 3e-4,
    "last block": 1e-3,
    "biases": 1e-2,
    "LoRA": 3e-3,
    "AdaLoRA": 1e-2,
    "adapter": 3e-3,
    "prefix": 3e-2,
}


def prepare(method, model, rows, steps):
    """The model made ready for a method: frozen, but for what that trains. rows: where a prefix begins from."""
    if method == "full":
        return model
    if method == "LoRA":
        return add_lora(model, R, ALPHA)
    if method == "AdaLoRA":
        return add_adalora(model, R, ALPHA, steps)
    if method == "adapter":
        return add_adapters(model, R - 1, R)
    if method == "prefix":
        return add_prefix(model, torch.cat(rows)[: 2 * R])
    freeze(model)
    if method == "last block":
        model.transformer.h[-1].requires_grad_(True)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
    return model


def data(tokenizer, context_length):
    """{"train", "validation", "test", "reviews"}: token rows."""
    parts = {part: encode_snippets(texts, tokenizer) for part, texts in snippets().items()}
    reviews = encode_snippets(pretraining_reviews("validation")[:REVIEWS], tokenizer)
    parts["reviews"] = [row[:context_length] for row in reviews]
    return parts | {"train": parts["train"][:TRAINING], "validation": parts["validation"][:VALIDATION]}


def scores(model, rows):
    """Perplexities of the three held-out parts."""
    return {part: math.exp(nats_per_token(model, rows[part])) for part in ("validation", "test", "reviews")}


def top_share(change, r):
    """The share of a matrix's squared entries that its r largest singular values hold."""
    values = torch.linalg.svdvals(change).square()
    return (values[:r].sum() / values.sum()).item()


def run(method, rate, seed, base, rows):
    """One training and its scores, as a dict; its "validation" is None if the training diverged."""
    try:
        return trained(method, rate, seed, base, rows)
    except TrainingDiverged:
        return {"method": method, "rate": rate, "seed": seed, "validation": None}


def trained(method, rate, seed, base, rows):
    """One training and its scores."""
    seed_everything(seed)
    model = prepare(method, copy.deepcopy(base).to(pick_device()), rows["train"], len(rows["train"]) // BATCH_SIZE)
    first_parameters, began = count_trainable(model), time.monotonic()
    if method == "AdaLoRA":
        train_adalora(model, rows["train"], rate=rate, batch_size=BATCH_SIZE, seed=seed)
        final = sum(ranks(model)) * (4 * base.config.n_embd + 1)
        more = {"parameters": final, "parameters_at_first": first_parameters, "ranks": ranks(model)}
        model = model.get_base_model()  # its loss is the plain one, without AdaLoRA's penalty
    else:
        fine_tune(
            model, rows["train"], rows["validation"], epochs=1, rate=rate, batch_size=BATCH_SIZE, seed=seed,
            evaluations=1, checkpoint=f"parameter_efficient_{method.replace(' ', '_')}", checkpoint_every=125,
        )  # fmt: skip
        more = {"parameters": first_parameters}
    if method == "full":
        layers = zip(base.transformer.h, model.cpu().transformer.h)
        changes = [after.attn.c_attn.weight - before.attn.c_attn.weight for before, after in layers]
        more["top_share"] = [top_share(change.detach(), R) for change in changes]
        model.to(pick_device())
    seconds = time.monotonic() - began
    return {"method": method, "rate": rate, "seed": seed, **more, **scores(model, rows), "seconds": round(seconds, 1)}


def search(method, attempt):
    """The best of RATES by attempt(rate)["validation"], uphill from FIRST_RATE until both neighbours are worse."""
    score = lambda place: attempt(RATES[place])["validation"] or math.inf
    place = RATES.index(FIRST_RATE[method])
    for way in (1, -1):
        while 0 <= place + way < len(RATES) and score(place + way) < score(place):
            place += way
    return RATES[place]


def peak_memory():
    """The most memory that this process has had so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; getrusage there begins with the memory of the process that started this one
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


def kept_for_backward(model, batch):
    """Bytes that the forward pass keeps for the backward pass: tensors that are not the model's own, each once."""
    own = {p.untyped_storage().data_ptr() for p in itertools.chain(model.parameters(), model.buffers())}
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch).loss  # while it lives, no storage is given away twice
    del loss
    return sum(found.values())


def cost(method, seed):
    """What a training step takes, measured in this process, as a dict."""
    quiet()
    torch.set_num_threads(1)
    seed_everything(seed)
    model, tokenizer = load_language_model()
    rows = encode_snippets(snippets()["train"][:TRAINING], tokenizer)
    set_dropout(model, 0.0)
    model = prepare(method, model, rows, COST_STEPS).train()
    batches = Batches(
        torch.arange(len(rows)), batch_size=BATCH_SIZE, seed=seed,
        prepare=lambda chosen: pack([rows[i] for i in chosen]),
    )  # fmt: skip
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    before, seconds = peak_memory(), []
    for i in range(COST_STEPS):
        batch, began = batches[i], time.perf_counter()
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        if method == "AdaLoRA":
            model.base_model.update_and_allocate(i + 1)
        seconds.append(time.perf_counter() - began)
    peak = peak_memory()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    states = sum(x.nbytes for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x))
    with FlopCounterMode(display=False) as counter:
        model(**batches[0]).loss.backward()
    return {
        "method": method, "seed": seed, "gradient_bytes": gradients, "optimizer_bytes": states,
        "kept_bytes": kept_for_backward(model, batches[0]), "flops": counter.get_total_flops(),
        "before_bytes": before, "peak_bytes": peak, "seconds": round(statistics.median(seconds), 4),
    }  # fmt: skip


def cost_apart(method, seed):
    """cost(method, seed) in a process of its own."""
    command = [sys.executable, "-m", "aigc_course.recipes.parameter_efficient", "--cost", method, "--seeds", str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    return json.loads(done.stdout.splitlines()[-1])


class Kept:
    """Results that outlive a killed run: kept(name, make) is make(), or what that gave before."""

    def __init__(self, settings):
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        self.path = own_folder("checkpoints") / f"parameter_efficient_{digest}.json"
        self.rows = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def __call__(self, name, make):
        if name not in self.rows:
            self.rows[name] = make()
            write_atomically(self.path, json.dumps(self.rows).encode())
            print(self.rows[name], flush=True)
        return self.rows[name]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cost", metavar="METHOD", help="only measure the cost of a method, and print it")
    options = parser.parse_args()
    if options.cost:
        return print(json.dumps(cost(options.cost, options.seeds[0])))
    quiet()
    torch.set_num_threads(options.threads)
    base, tokenizer = load_language_model()
    set_dropout(base, 0.0)
    rows = data(tokenizer, base.config.n_positions)
    weights = published_sum("models/gpt2_mini/model.safetensors")  # checked when they were loaded
    kept = Kept([weights, R, ALPHA, TRAINING, VALIDATION, REVIEWS, BATCH_SIZE, COST_STEPS])
    attempt = lambda method, rate, seed: kept(
        f"{method}, {rate}, seed {seed}", lambda: run(method, rate, seed, base, rows)
    )
    before = kept("before", lambda: scores(base, rows))
    results = {"weights": weights, "parameters": base.num_parameters(), "before": before}
    results |= {"search": [], "seeds": [], "cost": []}
    for method in FIRST_RATE:
        tried = {}
        rate = search(method, lambda rate: tried.setdefault(rate, attempt(method, rate, options.seeds[0])))  # noqa: B023
        results["search"] += [{k: tried[r][k] for k in ("method", "rate", "seed", "validation")} for r in sorted(tried)]
        results["seeds"] += [attempt(method, rate, seed) for seed in options.seeds]
    for method in FIRST_RATE:
        for seed in options.seeds:
            results["cost"].append(kept(f"cost of {method}, {seed}", lambda: cost_apart(method, seed)))  # noqa: B023
    write_results("parameter_efficient", results)
    kept.path.unlink()


if __name__ == "__main__":
    main()
