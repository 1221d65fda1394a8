"""The BERT mini of lesson 17: `python -m aigc_course.recipes.bert_mini [--steps N] [--seed S]`.

Trains a cased WordPiece tokenizer and a small BERT on the IMDB reviews, by masked-language modelling and next-sentence
prediction, scores both on reviews that it did not see, and writes all with a model card to data/models/bert_mini/. A
run that was killed goes on from its last checkpoint. Two processes: `torchrun --nproc_per_node 2 -m
aigc_course.recipes.bert_mini`.
"""

import re

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import BertConfig, BertForPreTraining, BertTokenizer

from aigc_course.data import Batches, movie_reviews
from aigc_course.ner import sentences
from aigc_course.pretrained import MODELS, plain, pretraining_reviews
from aigc_course.recipes.pretraining import (
    MuonAdamW,
    Stopwatch,
    command_line,
    fingerprint,
    half_precision,
    print_sums,
    warmup_linear,
    write_card,
    write_log,
    write_model,
)
from aigc_course.runtime import pick_device, seed_everything
from aigc_course.training import train

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
VOCAB_SIZE, LENGTH = 8192, 128
SEGMENT = (LENGTH - 3) // 2  # the longest of two segments beside [CLS] and two [SEP]
SHAPE = dict(num_hidden_layers=4, num_attention_heads=4, hidden_size=256, intermediate_size=1024)
STEPS, BATCH_SIZE = 6000, 64
MATRIX_RATE, RATE, WEIGHT_DECAY = 2e-3, 1e-3, 0.1
IGNORED = -100  # the label that F.cross_entropy leaves out
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"')])\s+|\n")


def training_texts():
    """The reviews for pretraining, without the 600 from which lesson 17 takes its validation and test sentences."""
    reviews = movie_reviews("imdb")
    judged = {plain(reviews[s.row][0]) for part in ("validation", "test") for s in sentences(part)}
    return [text for text in pretraining_reviews("train") if text not in judged]


def cased_wordpiece(vocabulary=None):
    """An empty tokenizer, or one with a vocabulary {piece: number}, that splits as BERT does and keeps capitals."""
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return pieces


def train_tokenizer(texts):
    """A cased WordPiece tokenizer of VOCAB_SIZE entries, the special ones first; the same from the same texts.

    The library numbers characters inside words, "##a", by chance, and what it merges at a tie depends on these numbers:
    so they are given to it in an order.
    """
    inside = sorted(set().union(*(re.findall(r"(?<=\S)[^\W_]|(?<=\S)[^\s!-~]", text) for text in texts)))
    first = SPECIAL + ["##" + character for character in inside]
    pieces = cased_wordpiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCAB_SIZE, special_tokens=first, show_progress=False)
    pieces.train_from_iterator(texts, trainer)
    return BertTokenizer(
        tokenizer_object=cased_wordpiece(pieces.get_vocab()), do_lower_case=False, model_max_length=LENGTH
    )


def segments(tokenizer, texts):
    """Whole sentences in runs of at most SEGMENT tokens, and which text each is from: list of tensors, int64 `(N,)`.

    A sentence that is longer than that is cut.
    """
    found, sources = [], []
    for source, text in enumerate(texts):
        sentences = [sentence for sentence in SENTENCE.split(text) if sentence.strip()]
        run = []
        for encoding in tokenizer.backend_tokenizer.encode_batch(sentences, add_special_tokens=False):
            for start in range(0, len(encoding.ids), SEGMENT):
                piece = encoding.ids[start : start + SEGMENT]
                if len(run) + len(piece) > SEGMENT:
                    found.append(run)
                    run = []
                run = run + piece
        found += [run] * bool(run)
        sources += [source] * (len(found) - len(sources))
    return [torch.tensor(run) for run in found], torch.tensor(sources)


def mask_tokens(input_ids, vocab_size, g):
    """The 80/10/10 rule: (what the model reads, labels), both int64 like input_ids `(B, T)`.

    Of the tokens that are not special, 15 % get a label; 80 % of these become [MASK], 10 % any token, 10 % stay.
    """
    chosen = (torch.rand(input_ids.shape, generator=g) < 0.15) & (input_ids >= len(SPECIAL))
    labels = torch.where(chosen, input_ids, IGNORED)
    action = torch.rand(input_ids.shape, generator=g)
    others = torch.randint(len(SPECIAL), vocab_size, input_ids.shape, generator=g)
    read = torch.where(chosen & (action < 0.8), MASK, input_ids)
    return torch.where(chosen & (action >= 0.9), others, read), labels


class PairBatches:
    """batches[i] is the batch of step i: pairs of segments with masked tokens. All chance comes from seed and i alone.

    segments, sources: as `segments` gives them. An example is a segment A and, by a coin, the one that follows it in
    its text or one that another example of the batch has (if that is from another text). With several processes, each
    takes its own part of every batch, and all chance is drawn for the whole batch.
    """

    def __init__(self, segments, sources, vocab_size, *, batch_size, seed):
        self.rows = torch.zeros(len(segments), SEGMENT, dtype=torch.long)
        for row, segment in zip(self.rows, segments):
            row[: len(segment)] = segment
        self.sources, self.vocab_size = sources, vocab_size
        starts = (sources[:-1] == sources[1:]).nonzero().flatten()  # each is followed by one of the same text
        self.pairs = Batches(starts, batch_size=batch_size, seed=seed)
        self.batch_size, self.seed, self.per_epoch = batch_size, seed, self.pairs.per_epoch
        self.divide(0, 1)

    def divide(self, rank, processes):
        """Leaves to the process `rank` of `processes` its part of every batch."""
        if self.batch_size % processes:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of {processes}, the number of processes")
        self.rank, self.processes = rank, processes

    def __getitem__(self, step):
        """A dict: input_ids, token_type_ids, labels `(B, T)`, follows `(B,)` with 1 for true pairs, masked `()`.

        masked: how many labels a process has on the average, so that the mean over the processes is that over labels.
        """
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        a = self.pairs[step]
        other = a.roll(1) + 1  # the second segment of the example before
        follows = (torch.rand(len(a), generator=g) < 0.5) | (self.sources[a] == self.sources[other])
        input_ids, types = join(self.rows[a], self.rows[torch.where(follows, a + 1, other)])
        input_ids, labels = mask_tokens(input_ids, self.vocab_size, g)
        share = self.batch_size // self.processes
        mine = slice(self.rank * share, (self.rank + 1) * share)
        masked = (labels != IGNORED).sum() / self.processes
        return {
            "input_ids": input_ids[mine], "token_type_ids": types[mine], "labels": labels[mine],
            "follows": follows[mine].long(), "masked": masked,
        }  # fmt: skip


def join(a, b):
    """[CLS] A [SEP] B [SEP] and padding, and its types, 1 from B on: int64 `(N, LENGTH)`; a, b: `(N, SEGMENT)`."""
    input_ids = torch.full((len(a), LENGTH), PAD)
    types = torch.zeros_like(input_ids)
    ends = (a != PAD).sum(1)
    for row, kind, first, second, n in zip(input_ids, types, a, b, ends.tolist()):
        m = int((second != PAD).sum())
        row[0], row[1 : n + 1], row[n + 1] = CLS, first[:n], SEP
        row[n + 2 : n + m + 2], row[n + m + 2] = second[:m], SEP
        kind[n + 2 : n + m + 3] = 1
    return input_ids, types


def new_model(vocab_size, **shape):
    """A BERT with both heads whose sublayers' output projections start at zero. It has no dropout."""
    shape = dict(vocab_size=vocab_size, max_position_embeddings=LENGTH, pad_token_id=PAD) | shape
    model = BertForPreTraining(BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    for name, parameter in model.named_parameters():
        if name.endswith("output.dense.weight"):
            nn.init.zeros_(parameter)
    return model


def make_optimizer(model, dtype):
    """Muon for the encoder's matrices, AdamW for all else."""
    matrices = [p for p in model.bert.encoder.parameters() if p.ndim == 2]
    known = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in known]
    groups = [
        {"params": matrices, "lr": MATRIX_RATE, "weight_decay": WEIGHT_DECAY, "split": 1},
        {"params": rest, "lr": RATE},
    ]
    return MuonAdamW(groups, dtype=dtype)


def pretraining_logits(model, batch):
    """Logits of the masked tokens `(M, V)`, row by row, and of "B follows A" `(B, 2)`, 1 for yes.

    The large head works on the masked places only.
    """
    mask = (batch["input_ids"] != PAD).long()
    found = model.bert(batch["input_ids"], attention_mask=mask, token_type_ids=batch["token_type_ids"])
    chosen = found.last_hidden_state[batch["labels"] != IGNORED]  # (M, d)
    return model.cls.predictions(chosen), model.cls.seq_relationship(found.pooler_output).flip(1)  # 0 is yes in BERT


def pretraining_loss(model, batch):
    """(loss of the masked tokens, loss of the pairs), in nats."""
    logits, pairs = pretraining_logits(model, batch)
    labels = batch["labels"][batch["labels"] != IGNORED]
    tokens = F.cross_entropy(logits.float(), labels, reduction="sum") / batch["masked"]
    return tokens, F.cross_entropy(pairs.float(), batch["follows"])


def pretrain(model, batches, unseen, *, steps, dtype=torch.float32, **options):
    """Trains `model` in place on PairBatches; returns the History. unseen: a list of batches for the log.

    dtype: of the matrix products; the weights stay in float32. options: for `train`.
    """
    device, seconds = next(model.parameters()).device, Stopwatch()

    def step(batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            tokens, pairs = pretraining_loss(model, batch)
        return tokens + pairs, {"masked tokens": tokens, "pairs": pairs, "processor seconds": seconds()}

    def evaluate():
        figures = judge(model, unseen)
        print(", ".join(f"{name} {value:.4f}" for name, value in figures.items()), flush=True)
        return figures["loss of masked tokens, nats"] + figures["loss of pairs, nats"]

    return train(
        step, model, batches, optimizer=make_optimizer(model, dtype), steps=steps, schedule=warmup_linear,
        clip_norm=1.0, evaluate=evaluate, evaluate_every=max(1, steps // 40), desc="BERT mini", **options,
    )  # fmt: skip


@torch.no_grad()
def judge(model, batches):
    """Losses in nats and shares of right answers on a list of batches, over all masked tokens and all pairs."""
    device, sums = next(model.parameters()).device, torch.zeros(4, dtype=torch.float64)
    tokens = examples = 0
    for batch in batches:
        batch = {name: value.to(device) for name, value in batch.items()}
        logits, pairs = pretraining_logits(model, batch)
        for i, (found, labels) in enumerate(
            ((logits, batch["labels"][batch["labels"] != IGNORED]), (pairs, batch["follows"]))
        ):
            sums[2 * i] += F.cross_entropy(found.float(), labels, reduction="sum").item()
            sums[2 * i + 1] += (found.argmax(1) == labels).sum().item()
        tokens, examples = tokens + len(logits), examples + len(pairs)
    a, b, c, d = (sums / torch.tensor([tokens, tokens, examples, examples])).tolist()
    return {
        "loss of masked tokens, nats": a, "masked tokens found, share": b, "loss of pairs, nats": c,
        "pairs judged right, share": d,
    }  # fmt: skip


def baselines(training, unseen):
    """The same shares by simple rules: the most frequent token; chance; words in common, both learned on `training`."""
    labels, answers = (torch.cat([batch["labels"].flatten() for batch in part]) for part in (training, unseen))
    commonest = labels[labels != IGNORED].mode().values
    overlaps, follows, unseen_overlaps, unseen_follows = (
        torch.cat([f(batch) for batch in part])
        for part in (training, unseen) for f in (common_words, lambda batch: batch["follows"])
    )  # fmt: skip
    limits = overlaps.unique()[:, None]
    limit = limits[((overlaps >= limits) == follows).double().mean(1).argmax()]
    return {
        "masked tokens found by the most frequent token, share": (answers[answers != IGNORED] == commonest),
        "pairs judged right by the commoner answer, share": unseen_follows == follows.mode().values,
        "pairs judged right by words in common, share": (unseen_overlaps >= limit) == unseen_follows,
    }


def common_words(batch):
    """How many different tokens A and B share, as a share of those of the shorter one: `(B,)`."""
    found = []
    for ids, types in zip(batch["input_ids"].tolist(), batch["token_type_ids"].tolist()):
        a, b = ({i for i, t in zip(ids, types) if t == kind and i >= len(SPECIAL)} for kind in (0, 1))
        found.append(len(a & b) / max(1, min(len(a), len(b))))
    return torch.tensor(found)


CARD = """# BERT mini

A small cased BERT that has read film reviews. Lesson 17 of the course fine-tunes it. In Python:
`from aigc_course.pretrained import load_encoder; model, tokenizer = load_encoder("bert_mini")`, or
`BertForPreTraining.from_pretrained("data/models/bert_mini")`.

- **Model:** `transformers.BertForPreTraining`, unchanged BERT with both heads: {layers} layers, {heads} heads, {width}
  wide, context {length}, {parameters:,} parameters, kept as float16 (`model.safetensors`) and computed with in float32.
- **Tokenizer:** cased WordPiece of {vocab_size:,} entries, trained on the training text.
- **Data:** the distinct reviews of `movie_reviews("imdb")` (Maas et al., 2011, Learning Word Vectors for Sentiment
  Analysis), HTML breaks as line breaks: {training:,} for training, {validation:,} for validation
  (`aigc_course.pretrained.pretraining_reviews`). The reviews from which lesson 17 takes the sentences that it judges
  on are left out. From the rest {pairs:,} pairs of neighbouring runs of whole sentences, at most {segment} tokens each;
  in half of the examples the second is exchanged for one of another review.
- **Terms:** research and teaching, as for the reviews, which are the work of those who wrote them. The model fills in
  masked words and writes no texts, so no samples are drawn from it.
- **Training:** {steps:,} steps of {batch_size} examples `[CLS] A [SEP] B [SEP]`; {tokens:,} tokens seen, padding not
  counted, each example {epochs:.1f} times. Loss: cross-entropy of the masked tokens (15 %: 80 % [MASK], 10 % any token,
  10 % unchanged, drawn anew each time) plus that of "B follows A". Muon (rate {matrix_rate}, weight decay {decay}) for
  the encoder's matrices, AdamW (rate {rate}) for the rest, both linear down to 2 % of it; no dropout (`config.json`
  asks for 10 % in fine-tuning); matrix products in {precision}; seed {seed}. {minutes:.0f} minutes of processor time,
  all threads together, on {machine}. `log.json` holds the losses. Of {evaluations} evaluations on {rows} validation
  examples the weights of the best are kept: the last but for chance.
- **Limits:** it knows film reviews of before 2011 and nothing else.

| figure on the validation reviews | value |
|---|---:|
{figures}

Measured on {examples:,} examples with {masked:,} masked tokens. "Words in common" says that B follows when at least a
certain share of the tokens of the shorter segment occurs in the other; that share is chosen on training examples.

Made by `{command}` with Python {python}, torch {torch}, transformers {transformers}, tokenizers {tokenizers}.
"""


def main():
    parser = command_line(__doc__, STEPS, BATCH_SIZE, MODELS / "bert_mini")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seed_everything(options.seed)
    device = pick_device()
    accelerator = Accelerator(cpu=device.type == "cpu")

    texts = {"train": training_texts(), "validation": pretraining_reviews("validation")}
    tokenizer = train_tokenizer(texts["train"])
    parts = {split: segments(tokenizer, part) for split, part in texts.items()}
    batches = PairBatches(*parts["train"], VOCAB_SIZE, batch_size=options.batch_size, seed=options.seed)
    held_out = PairBatches(*parts["validation"], VOCAB_SIZE, batch_size=options.batch_size, seed=options.seed + 1)
    unseen = [held_out[i] for i in range(held_out.per_epoch)]
    model = new_model(VOCAB_SIZE, **SHAPE).to(device)
    if options.compile:
        model.bert.compile()
    history = pretrain(
        model, batches, unseen[:4], steps=options.steps, dtype=getattr(torch, options.precision),
        checkpoint="bert_mini", checkpoint_every=max(1, options.steps // 80),
        config=SHAPE | {"tokens": fingerprint(parts["train"][0]), "precision": options.precision},
        accelerator=accelerator,
    )  # fmt: skip
    if not accelerator.is_main_process:
        return

    half_precision(model).cpu()
    figures = judge(model, unseen)
    examples = [batches[i] for i in range(min(batches.per_epoch, 100))]
    figures |= {name: right.double().mean().item() for name, right in baselines(examples, unseen).items()}
    for name, value in figures.items():
        print(f"{name:<70} {value:.4f}")
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    write_model(options.target, model, tokenizer)
    write_log(options.target, history)
    real = torch.tensor([(batch["input_ids"] != PAD).sum() for batch in examples]).double().mean().item()
    write_card(
        options.target, CARD, figures, "aigc_course.recipes.bert_mini", layers=model.config.num_hidden_layers,
        heads=model.config.num_attention_heads, width=model.config.hidden_size, length=LENGTH, segment=SEGMENT,
        parameters=sum(p.numel() for p in model.parameters()), vocab_size=VOCAB_SIZE, training=len(texts["train"]),
        validation=len(texts["validation"]), pairs=len(batches.pairs.tensors[0]), steps=len(history),
        batch_size=options.batch_size, tokens=round(real * len(history)), epochs=len(history) / batches.per_epoch,
        matrix_rate=MATRIX_RATE, rate=RATE, decay=WEIGHT_DECAY, precision=options.precision, seed=options.seed,
        minutes=sum(history["processor seconds"]) / 60,
        machine=torch.cuda.get_device_name() if device.type == "cuda" else "a processor without GPU",
        evaluations=len(history.evaluations), rows=4 * options.batch_size, examples=len(unseen) * options.batch_size,
        masked=sum(int((batch["labels"] != IGNORED).sum()) for batch in unseen),
    )  # fmt: skip
    print_sums(options.target)


if __name__ == "__main__":
    main()
