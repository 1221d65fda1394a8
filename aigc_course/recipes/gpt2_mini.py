"""The GPT-2 mini of lessons 14 and 15: `python -m aigc_course.recipes.gpt2_mini [--steps N] [--seed S]`.

Trains a byte-level BPE tokenizer and a small GPT-2 on the IMDB reviews, scores it on reviews that it did not see beside
compressors and counted 5-grams, and writes both with a model card to data/models/gpt2_mini/. A run that was killed goes
on from its last checkpoint. Two processes: `torchrun --nproc_per_node 2 -m aigc_course.recipes.gpt2_mini`.
"""

from dataclasses import asdict

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GPT2Tokenizer

from aigc_course.data import Batches
from aigc_course.language import score, token_nll, training_rows
from aigc_course.models.gpt import GPT, GPTConfig, as_transformers
from aigc_course.pretrained import MODELS, pretraining_reviews
from aigc_course.recipes.pretraining import (
    KneserNey,
    MuonAdamW,
    Stopwatch,
    command_line,
    compressed_bits,
    fingerprint,
    half_precision,
    longest_copy,
    print_sums,
    warmup_linear,
    write_card,
    write_log,
    write_model,
)
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import train

VOCAB_SIZE, CONTEXT = 4096, 256
SHAPE = dict(n_layer=4, n_head=5, n_embd=320)
STEPS, BATCH_SIZE = 5400, 32
MATRIX_RATE, RATE, WEIGHT_DECAY = 2e-3, 5e-3, 0.1
END = "<|endoftext|>"


def train_tokenizer(texts):
    """A GPT-2 tokenizer of VOCAB_SIZE entries: bytes, merged bytes, and the end token as the last."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE - 1, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([END])
    return GPT2Tokenizer(tokenizer_object=bpe, bos_token=END, eos_token=END, model_max_length=CONTEXT)


def encode(tokenizer, texts):
    """A list of int64 tensors `(T,)`, one a text; the last token of each is the end token."""
    encodings = tokenizer.backend_tokenizer.encode_batch(texts)
    return [torch.tensor([*encoding.ids, tokenizer.eos_token_id]) for encoding in encodings]


def new_model(config):
    """A GPT-2 whose output projections start at zero: every block begins as the identity."""
    model = GPT(config)
    for name, parameter in model.named_parameters():
        if name.endswith("project.weight"):
            nn.init.zeros_(parameter)
    return model


def make_optimizer(model, dtype):
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases."""
    blocks = model.blocks.named_parameters()
    matrices = {name: p for name, p in blocks if p.ndim == 2}
    joint = [p for name, p in matrices.items() if "qkv" in name]
    single = [p for name, p in matrices.items() if "qkv" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim == 1 or "embedding" in name]
    groups = [
        {"params": joint, "lr": MATRIX_RATE, "weight_decay": WEIGHT_DECAY, "split": 3},
        {"params": single, "lr": MATRIX_RATE, "weight_decay": WEIGHT_DECAY, "split": 1},
        {"params": rest, "lr": RATE},
    ]
    return MuonAdamW(groups, dtype=dtype)


def next_token_loss(model, inputs, labels):
    """Mean cross-entropy in nats of labels `(B, T)`, one ahead of inputs `(B, T)`."""
    return F.cross_entropy(model(inputs).flatten(0, 1).float(), labels.flatten())


def pretrain(
    model, reviews, validation, *, steps, batch_size, seed, dtype=torch.float32, compiled=False, **options
):  # fmt: skip
    """Trains `model` in place on the reviews in one stream (lists of token tensors); returns the History.

    dtype: of the matrix products; the weights stay in float32. compiled: let torch.compile translate the loss to C++.
    options: for `train`.
    """
    length, device = model.config.context_length, next(model.parameters()).device
    batches = Batches(*training_rows(reviews, length), batch_size=batch_size, seed=seed)
    unseen = [rows[:64].to(device) for rows in training_rows(validation, length)]
    seconds, loss_of = Stopwatch(), torch.compile(next_token_loss) if compiled else next_token_loss

    def step(batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = loss_of(model, *batch)
        return loss, {"processor seconds": seconds()}

    def evaluate():
        loss = next_token_loss(model, *unseen).item()
        print(f"loss on the first validation rows {loss:.4f}", flush=True)
        return loss

    return train(
        step, model, batches, optimizer=make_optimizer(model, dtype), steps=steps, schedule=warmup_linear,
        clip_norm=1.0, evaluate=evaluate, evaluate_every=max(1, steps // 40), desc="GPT-2 mini", **options,
    )  # fmt: skip


@torch.no_grad()
def samples_of(model, tokenizer, count, batch=50):
    """`count` free samples at temperature 1 from the end token, each up to its next end token or 256 tokens."""
    start = torch.full((batch, 1), tokenizer.eos_token_id, device=model.device)
    texts = []
    while len(texts) < count:
        drawn = model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_length=CONTEXT,
        )  # fmt: skip
        texts += tokenizer.batch_decode(drawn, skip_special_tokens=True)
    return texts[:count]


def figures_of(model, validation_texts, validation, training_texts, training):
    """What the card says of a GPT beside other models: nats a token and bits a byte on the validation texts."""
    scores = {"the model": token_nll(model, validation, context_length=CONTEXT)}
    counted = KneserNey(training, 5, model.config.vocab_size)
    scores["counted 5-grams (Kneser-Ney) on the same tokens"] = -counted.probability(validation).log()
    loss = {f"nats a token, {name}": nll.double().mean().item() for name, nll in scores.items()}
    bits = {name: score(nll, validation_texts)["bits per byte"] for name, nll in scores.items()}
    bits |= compressed_bits(validation_texts, training_texts)
    return loss | {f"bits a byte, {name}": value for name, value in bits.items()}


CARD = """# GPT-2 mini

A small GPT-2 that writes film reviews. Lessons 14 and 15 of the course fine-tune it. In Python:
`from aigc_course.pretrained import load_language_model; model, tokenizer = load_language_model("gpt2_mini")`, or
`AutoModelForCausalLM.from_pretrained("data/models/gpt2_mini")`.

- **Model:** `transformers.GPT2LMHeadModel`, unchanged GPT-2: {n_layer} layers, {n_head} heads, {n_embd} wide, context
  {context_length}, {parameters:,} parameters, kept as float16 (`model.safetensors`) and computed with in float32.
- **Tokenizer:** byte-level BPE of {vocab_size:,} entries, trained on the training text. `{end}` (number {last}) stands
  behind every text, and before the first: begin with it.
- **Data:** the distinct reviews of `movie_reviews("imdb")` (Maas et al., 2011, Learning Word Vectors for Sentiment
  Analysis), HTML breaks as line breaks: {training:,} for training, {validation:,} for validation
  (`aigc_course.pretrained.pretraining_reviews`).
- **Terms:** research and teaching, as for the reviews, which are the work of those who wrote them. The model can repeat
  what it read: {copies}
- **Training:** {steps:,} steps of {batch_size} rows of {context_length} tokens, one review after another; {tokens:,}
  tokens seen, each {epochs:.1f} times. Muon (rate {matrix_rate}, weight decay {decay}) for the blocks' matrices, AdamW
  (rate {rate}) for the rest, both linear down to 2 % of it; output projections start at zero; matrix products in
  {precision}; seed {seed}. {minutes:.0f} minutes of processor time, all threads together. `log.json` holds the losses.
  Of {evaluations} evaluations on {rows} validation rows the weights of the best are kept: the last but for chance.
- **Limits:** it knows film reviews of before 2011 and nothing else, and what it says of films is made up.

| figure on the validation reviews | value |
|---|---:|
{figures}

All {validation_tokens:,} tokens of the validation texts count, their end tokens too; bits are divided by all
{validation_bytes:,} bytes of the texts in UTF-8. Every text is read from its own end token on, in windows of
{context_length} tokens that move on by half. The compressors get the texts with a zero byte behind each, and that byte
is not counted as text. "Behind the training text" is the compressed size of training and validation text together, less
that of the training text: gzip looks back 32 KiB only, xz over all of it. The 5-grams are counted on the training text.

Samples are {samples} free samples at temperature 1, seed {seed}.

Made by `{command}` with Python {python}, torch {torch}, transformers {transformers}, tokenizers {tokenizers}.
"""


def main():
    parser = command_line(__doc__, STEPS, BATCH_SIZE, MODELS / "gpt2_mini")
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seed_everything(options.seed)
    device = pick_device()
    accelerator = Accelerator(cpu=device.type == "cpu")

    texts = {split: pretraining_reviews(split) for split in ("train", "validation")}
    tokenizer = train_tokenizer(texts["train"])
    training, validation = (encode(tokenizer, part) for part in texts.values())
    config = GPTConfig(VOCAB_SIZE, CONTEXT, **SHAPE)
    model = new_model(config).to(device)
    history = pretrain(
        model, training, validation, steps=options.steps, batch_size=options.batch_size, seed=options.seed,
        dtype=getattr(torch, options.precision), compiled=options.compile, accelerator=accelerator,
        checkpoint="gpt2_mini", checkpoint_every=max(1, options.steps // 80),
        config=asdict(config) | {"tokens": fingerprint(training), "precision": options.precision},
    )  # fmt: skip
    if not accelerator.is_main_process:
        return

    half_precision(model)
    shipped = as_transformers(model.cpu())
    for c in (shipped.config, shipped.generation_config):  # as published, GPT-2 has no padding token
        c.bos_token_id, c.eos_token_id, c.pad_token_id = tokenizer.eos_token_id, tokenizer.eos_token_id, None
    shipped.generation_config.pad_token_id = tokenizer.eos_token_id  # behind the end of a sample
    write_model(options.target, shipped, tokenizer)
    write_log(options.target, history)
    seed_everything(options.seed)
    samples = samples_of(shipped, tokenizer, options.samples)
    print("\n---\n".join(samples[:4]))
    copied, shared = (longest_copy(t, texts["train"]) for t in (samples, texts["validation"][: options.samples]))
    figures = figures_of(model, texts["validation"], validation, texts["train"], training)
    for name, value in figures.items():
        print(f"{name:<70} {value:.4f}")
    tokens = len(history) * options.batch_size * CONTEXT
    write_card(
        options.target, CARD, figures, "aigc_course.recipes.gpt2_mini", **asdict(config), end=END,
        parameters=sum(p.numel() for p in model.parameters()), last=tokenizer.eos_token_id, matrix_rate=MATRIX_RATE,
        rate=RATE, decay=WEIGHT_DECAY, training=len(training), validation=len(validation), steps=len(history),
        batch_size=options.batch_size, tokens=tokens, epochs=tokens / sum(map(len, training)), seed=options.seed,
        precision=options.precision, minutes=sum(history["processor seconds"]) / 60, rows=64, samples=len(samples),
        evaluations=len(history.evaluations), validation_tokens=sum(map(len, validation)),
        validation_bytes=sum(len(text.encode()) for text in texts["validation"]),
        copies=f"the longest run of words in {len(samples)} samples that stands in a training\n  text is "
        f'{len(copied.split())} words long ("{copied}"); {len(samples)} validation reviews share\n  as many as '
        f"{len(shared.split())} words with one.",
    )  # fmt: skip
    print_sums(options.target)


if __name__ == "__main__":
    main()
