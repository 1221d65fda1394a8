"""Tokens a second of the course's fine-tuning beside transformers.Trainer's: `python -m benchmarks.finetune`.

GPT-2 mini on the snippets of lesson 14, 16 snippets a step, the same learning rate, no dropout in either. The course's
`fine_tune` packs them; Trainer has its defaults otherwise, and its batches are padded to their longest row, as its
collators do. First rounds of a few steps on the same snippets by turns, for the speed (tokens that are no padding, a
second); then an epoch each, for the perplexity on the test part. The last line holds both ratios.
"""

import argparse
import tempfile
import time
from statistics import median

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from aigc_course.finetuning import encode_snippets, fine_tune, pad, perplexity, set_dropout, snippets
from aigc_course.pretrained import load_language_model
from aigc_course.recipes.finetuning import SETTINGS

BATCH_SIZE, RATE = 16, SETTINGS["fine-tuned"]["rate"]


def fresh_model():
    """GPT-2 mini without dropout."""
    model, _ = load_language_model("gpt2_mini")
    set_dropout(model, 0.0)
    return model


def by_course(rows):
    """One epoch over `rows` by the course's fine_tune: the model and the seconds."""
    model = fresh_model()
    began = time.perf_counter()
    fine_tune(model, rows, rows[:4], epochs=1, rate=RATE, weight_decay=0.01, batch_size=BATCH_SIZE, evaluations=1)
    return model, time.perf_counter() - began


def by_trainer(rows):
    """One epoch over `rows` by transformers.Trainer: the model and the seconds."""
    model = fresh_model()
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=BATCH_SIZE, learning_rate=RATE,
            remove_unused_columns=False, save_strategy="no", report_to="none", disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        trainer = Trainer(
            model, options, train_dataset=[{"row": row} for row in rows],
            data_collator=lambda features: pad([feature["row"] for feature in features]),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    return model.eval(), seconds


WAYS = {"the course": by_course, "Trainer": by_trainer}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="for the speed")
    parser.add_argument("--steps", type=int, default=25, help="of a round")
    parser.add_argument("--snippets", type=int, default=4000, help="for the perplexity")
    parser.add_argument("--test", type=int, default=500, help="test snippets")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _, tokenizer = load_language_model("gpt2_mini")
    rows = {part: encode_snippets(texts, tokenizer) for part, texts in snippets().items()}

    speeds = {name: [] for name in WAYS}
    for turn in range(options.rounds):
        size = BATCH_SIZE * options.steps
        chosen = rows["train"][turn * size % len(rows["train"]) :][:size]
        for name, way in WAYS.items():
            speeds[name].append(sum(map(len, chosen)) / way(chosen)[1])
    scores = {}
    for name, way in WAYS.items():
        scores[name] = perplexity(way(rows["train"][: options.snippets])[0], rows["test"][: options.test])
        fastest, slowest = max(speeds[name]), min(speeds[name])
        print(
            f"{name:<10}  {median(speeds[name]):6.0f} tokens a second ({slowest:.0f} to {fastest:.0f}), "
            f"test perplexity {scores[name]:.2f}",
            flush=True,
        )
    speed = median(speeds["the course"]) / median(speeds["Trainer"])
    print(f"course/Trainer: speed {speed:.2f} perplexity {scores['the course'] / scores['Trainer']:.4f}")


if __name__ == "__main__":
    main()
