"""The Transformer's row of lesson 10's table: `python -m aigc_course.recipes.gpt_reviews --seeds 0 1 2`.

Trains lesson 12's modern GPT, with Muon for its matrices, on the reviews of `aigc_course.language` and writes its
scores on the 400 test reviews to data/results/gpt_reviews.json: "seeds" as the lesson trains it, "longer" on as many
tokens as lesson 10's LSTM; nothing is chosen by them. The other rows of the table are in language_models.json.
"""

import torch.nn.functional as F

from aigc_course.data import Batches
from aigc_course.language import (
    VOCAB_SIZE,
    encode_reviews,
    review_splits,
    review_tokenizer,
    score,
    token_nll,
    training_rows,
)
from aigc_course.models.gpt import GPT, GPTConfig, count_parameters
from aigc_course.recipes.gpt_changes import MODERN, make_optimizer, warmup_linear
from aigc_course.recipes.results import seeds_of, write_results
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import train

CONFIG = GPTConfig(VOCAB_SIZE, context_length=64, n_layer=3, n_head=4, n_embd=128, **MODERN)
STEPS, LONGER, BATCH_SIZE, RATE = 500, 1600, 16, 1e-2


def trained(seed, steps, reviews, texts):
    """One training of so many steps, and its scores."""
    seed_everything(seed)
    model = GPT(CONFIG).to(pick_device())
    batches = Batches(*training_rows(reviews["train"], CONFIG.context_length), batch_size=BATCH_SIZE, seed=seed)
    optimizer = make_optimizer(model, RATE, muon=True)

    def step(batch):
        inputs, labels = batch
        return F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())

    train(step, model, batches, optimizer=optimizer, steps=steps, schedule=warmup_linear, clip_norm=1.0)
    scores = score(token_nll(model, reviews["test"], CONFIG.context_length), texts)
    return {**scores, "parameters": count_parameters(CONFIG), "steps": steps}


def main():
    seeds = seeds_of(__doc__)
    tokenizer, texts = review_tokenizer(), review_splits()
    reviews = {split: encode_reviews(texts[split], tokenizer) for split in ("train", "test")}
    results = {"seeds": [], "longer": []}
    for seed in seeds:
        for name, steps in (("seeds", STEPS), ("longer", LONGER)):
            results[name].append({"seed": seed, **trained(seed, steps, reviews, texts["test"])})
            print(results[name][-1], flush=True)
    write_results("gpt_reviews", results)


if __name__ == "__main__":
    main()
