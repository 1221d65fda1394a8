"""Fine-tuning against training from scratch: `python -m aigc_course.recipes.finetuning --seeds 0 1 2 --threads 2`.

Scores GPT-2 mini on the test snippets of lesson 14 as it is, fine-tuned, and with the same architecture from random
weights, for each seed, and writes data/results/finetuning.json. "choices" are rates and dropouts that were tried with
seed 0, judged by the validation part. Matrix products of the training are in bfloat16, those of the scores in float32.
A recipe that was killed repeats no training that was finished, and goes on with the one that was not.
"""

import hashlib
import json
import math
import shutil

import torch
from transformers import AutoModelForCausalLM

from aigc_course.files import write_atomically
from aigc_course.finetuning import encode_snippets, fine_tune, fingerprint, perplexity, set_dropout, snippets
from aigc_course.paths import own_folder
from aigc_course.pretrained import load_language_model
from aigc_course.recipes.results import seeds_of, write_results
from aigc_course.runtime import pick_device, seed_everything

RATES = {"gpt2_mini": 5e-4}  # by model
SETTINGS = {
    "fine-tuned": dict(epochs=1, rate=RATES["gpt2_mini"], dropout=0.0, weight_decay=0.01, evaluations=4),
    "from scratch": dict(epochs=2, rate=5e-4, dropout=0.0, weight_decay=0.01, evaluations=2),
}
LONGER = SETTINGS["from scratch"] | dict(epochs=4, patience=2)  # with seed 0 only
CHOICES = {
    "fine-tuned": [dict(rate=2.5e-4), dict(rate=5e-4), dict(rate=1e-3), dict(dropout=0.1)],
    "from scratch": [dict(rate=2.5e-4), dict(rate=5e-4), dict(rate=1e-3), dict(rate=2e-3)],
}


def trained(name, settings, seed, rows):
    """One training; its scores on the validation and the test part, and what it took."""
    model, _ = load_language_model("gpt2_mini")
    seed_everything(seed)
    if name == "from scratch":
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(model.config)
    model, options = model.to(pick_device()), dict(settings)
    set_dropout(model, options.pop("dropout"))
    start = fingerprint([p.detach().flatten() for p in model.parameters()])
    key = json.dumps([settings, seed, "bfloat16", start, fingerprint(rows["train"]), fingerprint(rows["test"])])
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    finished = folder() / f"{key}.json"
    if finished.is_file():
        return json.loads(finished.read_text(encoding="utf-8"))
    seed_everything(seed)
    options |= dict(seed=seed, checkpoint=f"finetuning_{key}")
    with torch.autocast(model.device.type, torch.bfloat16, cache_enabled=False):  # the weights change at every step
        history = fine_tune(model, rows["train"], rows["validation"], **options)
    result = {
        "validation": math.exp(min(score for _, score in history.evaluations)),
        "test": perplexity(model, rows["test"]),
        "steps": len(history),
        "evaluations": [[step, round(score, 4)] for step, score in history.evaluations],
    }
    print(name, settings, f"seed {seed}: validation {result['validation']:.2f}, {len(history)} steps", flush=True)
    finished.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(finished, json.dumps(result).encode())
    return result


def folder():
    """Where results lie until all are there."""
    return own_folder("checkpoints") / "finetuning_finished"


def all_results(seeds, rows):
    """What the recipe writes."""
    before, _ = load_language_model("gpt2_mini")
    before = before.to(pick_device())
    results = {"before": {part: perplexity(before, rows[part]) for part in ("validation", "test")}, "seeds": []}
    for seed in seeds:
        row = {"seed": seed} | {name: trained(name, SETTINGS[name], seed, rows) for name in SETTINGS}
        if seed == 0:
            row["from scratch, longer"] = trained("from scratch", LONGER, seed, rows)
        results["seeds"].append(row)
    results["choices"] = []
    for name, changes in CHOICES.items():
        for change in changes:
            settings = SETTINGS[name] | change
            validation = trained(name, settings, 0, rows)["validation"]
            choice = {"name": name, "rate": settings["rate"], "dropout": settings["dropout"], "validation": validation}
            results["choices"].append(choice)
    return results


def main():
    seeds = seeds_of(__doc__)
    _, tokenizer = load_language_model("gpt2_mini")
    rows = {part: encode_snippets(texts, tokenizer) for part, texts in snippets().items()}
    write_results("finetuning", all_results(seeds, rows))
    shutil.rmtree(folder(), ignore_errors=True)


if __name__ == "__main__":
    main()
