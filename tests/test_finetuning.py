"""Snippets, batches and the training of lessons 14 and 15, and how pretrained models are loaded."""

import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from aigc_course.checkpoints import CheckpointError
from aigc_course.data import stored_results
from aigc_course.finetuning import (
    FEWEST_LETTERS,
    IGNORED,
    encode_snippets,
    fine_tune,
    fingerprint,
    nats_per_token,
    only_letters,
    pack,
    pad,
    perplexity,
    set_dropout,
    snippets,
    warmup_to_zero,
)
from aigc_course.language import token_nll
from aigc_course.pretrained import hub_answers, load_language_model, pretraining_reviews
from aigc_course.recipes import finetuning as recipe
from aigc_course.recipes import gpt2_mini
from aigc_course.runtime import seed_everything
from benchmarks import finetune as benchmark

V, END = 40, 39


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For models as small as these a second thread does not help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(dropout=0.0):
    """A GPT-2 of a few thousand random weights, far from uniform."""
    torch.manual_seed(0)
    shape = dict(vocab_size=V, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=END, eos_token_id=END)
    model = GPT2LMHeadModel(GPT2Config(**shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    set_dropout(model, dropout)
    return model.eval()


@pytest.fixture(scope="module")
def rows():
    """Rows of 2 to 30 tokens between end tokens, those of a fixed pattern, so that there is something to learn."""
    g = torch.Generator().manual_seed(0)
    lengths = [2, 3, 4, 30, *torch.randint(2, 31, (36,), generator=g).tolist()]
    start = torch.randint(END, (len(lengths),), generator=g)
    return [torch.cat((torch.tensor([END]), (s + torch.arange(n - 2)) % END, torch.tensor([END])))
            for n, s in zip(lengths, start)]  # fmt: skip


# -- snippets


def test_parts_are_whole_and_no_text_is_in_two():
    parts = snippets()
    assert {name: len(texts) for name, texts in parts.items()} == {"train": 4000, "validation": 500, "test": 500}
    every = [only_letters(text) for texts in parts.values() for text in texts]
    assert len(set(every)) == 5000 and min(map(len, every)) >= FEWEST_LETTERS
    assert not any(a != b and a in b for a in every[:300] for b in every)
    assert all(text == text.strip() and text.isprintable() for texts in parts.values() for text in texts)
    joined = torch.tensor(list("".join(parts["test"]).encode()))
    assert fingerprint([joined]) == "cc7e42204acc0b4e"  # the same for ever


def test_no_snippet_stands_in_a_review_of_the_pretraining():
    """By rolling hashes of runs of FEWEST_LETTERS letters."""
    base = np.uint64(6364136223846793005)
    powers = np.cumprod(np.full(5_000_000, base))
    inverse = np.cumprod(np.full(5_000_000, np.uint64(pow(int(base), -1, 2**64))))

    def hashes(text):
        numbers = np.frombuffer(text.encode(), np.uint8).astype(np.uint64)
        sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(numbers * powers[: len(numbers)])))
        runs = sums[FEWEST_LETTERS:] - sums[:-FEWEST_LETTERS]
        return runs * inverse[: len(runs)]

    reviews = [only_letters(text) for split in ("train", "validation") for text in pretraining_reviews(split)]
    wanted = {hashes(only_letters(t)[:FEWEST_LETTERS])[0]: t for texts in snippets().values() for t in texts}
    planted = reviews[7][100:]
    assert len(wanted) > 4990 and hashes(planted)[0] in hashes(reviews[7])
    found = []
    for i in range(0, len(reviews), 2000):
        text = " ".join(reviews[i : i + 2000])
        for hit in np.intersect1d(hashes(text), np.array(list(wanted), np.uint64)):
            found += [wanted[hit]] if only_letters(wanted[hit]) in text else []
    assert found == []


def test_rows_begin_and_end_with_the_end_token():
    texts = snippets()["test"][:50] + ["", "é – “x”"]
    tokenizer = gpt2_mini.train_tokenizer(texts * 3)
    for text, row in zip(texts, encode_snippets(texts, tokenizer)):
        assert row[0] == row[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in row[1:-1]
        assert tokenizer.decode(row[1:-1]) == text and row.dtype == torch.int64


# -- batches


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("tokens", [1, 20, 64, 10_000])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_packed_padded_and_one_at_a_time_are_the_same(rows, tokens, count):
    model, chosen = tiny_model(), rows[:count]
    padded, packed = pad(chosen), pack(chosen, tokens)
    for a, b in zip(loss_and_gradients(model, padded), loss_and_gradients(model, packed)):
        assert_close(a, b, atol=1e-5, rtol=1e-4)
    alone = [model(row[None], labels=row[None]).loss * (len(row) - 1) for row in chosen]
    assert_close(model(**padded).loss, sum(alone) / sum(len(row) - 1 for row in chosen))
    for batch in (padded, packed):
        assert (batch["labels"] != IGNORED).sum() == sum(len(row) - 1 for row in chosen)
        assert all(len(value) == len(batch["input_ids"]) for value in batch.values())


def test_packing_leaves_hardly_any_padding():
    g = torch.Generator().manual_seed(0)
    rows = [torch.ones(n, dtype=torch.int64) for n in torch.randint(8, 70, (64,), generator=g).tolist()]
    for batch in (rows[:16], rows[16:32], rows):
        real = sum(map(len, batch))
        assert pack(batch)["input_ids"].numel() < 1.08 * real < 0.8 * pad(batch)["input_ids"].numel()


def test_a_row_sees_nothing_of_the_others(rows):
    model, chosen = tiny_model(), [row.clone() for row in rows[3:9]]
    before = model(**pack(chosen, 60))
    changed = [chosen[0], *(torch.cat((row[:1], row[1:-1].roll(1), row[-1:])) for row in chosen[1:])]
    after = model(**pack(changed, 60))
    assert sorted(map(len, chosen), reverse=True)[0] == len(chosen[0])  # so it is the first of the first line
    assert_close(before.logits[0, : len(chosen[0])], after.logits[0, : len(chosen[0])])
    assert (before.logits - after.logits).abs().max() > 0.1


def test_nats_are_summed_over_tokens(rows):
    model = tiny_model()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids):
            return self.inner(input_ids).logits

    expected = token_nll(Logits(), [row[1:] for row in rows]).double().mean().item()
    for batch_size in (1, 7, 100):
        assert nats_per_token(model, rows, batch_size) == pytest.approx(expected, rel=1e-5)
    assert perplexity(model, rows) == pytest.approx(math.exp(expected), rel=1e-4)
    means = [nats_per_token(model, [row]) for row in rows]
    assert abs(sum(means) / len(means) - expected) > 1e-3  # the widely made mistake is another number


# -- training


def trained(rows, model=None, **options):
    seed_everything(1)
    model = model or tiny_model(dropout=0.1)
    settings = dict(epochs=3, rate=1e-2, batch_size=8, seed=3) | options
    return model, fine_tune(model, rows[:32], rows[32:], **settings)


def test_it_learns_and_keeps_the_best(rows):
    model, history = trained(rows, epochs=12, rate=3e-2, patience=3)
    scores = [score for _, score in history.evaluations]
    assert min(scores) < scores[0] - 0.1 < nats_per_token(tiny_model(), rows[32:]) - 0.1
    assert nats_per_token(model, rows[32:]) == pytest.approx(min(scores), rel=1e-5)
    assert not model.training and {step for step, _ in history.evaluations} <= set(range(len(history) + 1))


def test_it_stops_early(rows):
    other = [torch.cat((row[:1], row[1:-1].flip(0), row[-1:])) for row in rows[32:]]  # what is learned is no use here
    seed_everything(1)
    history = fine_tune(tiny_model(), rows[:32], other, epochs=20, rate=3e-2, batch_size=8, patience=2, evaluations=2)
    scores = [score for _, score in history.evaluations]
    assert len(history) < 80 and scores.index(min(scores)) == len(scores) - 3


def test_frozen_weights_stay(rows):
    model = tiny_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "ln_" in name
    trained(rows, model)
    assert all((p != before[name]).any() == ("ln_" in name) for name, p in model.named_parameters())


def test_pad_and_pack_train_alike(rows):
    packed, _ = trained(rows, tiny_model())
    padded, _ = trained(rows, tiny_model(), collate=pad)
    for a, b in zip(packed.parameters(), padded.parameters()):
        assert_close(a, b, atol=2e-3, rtol=1e-2)


def test_interrupted_and_started_again_it_ends_the_same(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AIGC_CHECKPOINTS", str(tmp_path))  # as a mounted folder is named on Colab
    whole, history = trained(rows)
    calls = []

    def pull_the_plug(chosen):
        calls.append(len(chosen))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return pack(chosen)

    with pytest.raises(KeyboardInterrupt):
        trained(rows, collate=pull_the_plug, checkpoint="tuned", checkpoint_every=3)
    assert list((tmp_path / "tuned").glob("step_*"))
    again, resumed = trained(rows, checkpoint="tuned", checkpoint_every=3)
    assert "Going on from step 6" in capsys.readouterr().out and not (tmp_path / "tuned").exists()
    assert resumed.values == history.values and resumed.evaluations == history.evaluations
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))


def test_a_checkpoint_of_other_data_is_refused(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("AIGC_CHECKPOINTS", str(tmp_path))

    def until_there_is_one(chosen):
        if list(tmp_path.glob("tuned/step_*")):
            raise KeyboardInterrupt
        return pack(chosen)

    with pytest.raises(KeyboardInterrupt):
        trained(rows, collate=until_there_is_one, checkpoint="tuned", checkpoint_every=2)
    with pytest.raises(CheckpointError, match="'training': "):
        trained([row.flip(0) for row in rows], checkpoint="tuned", checkpoint_every=2)


def test_schedule_rises_and_falls():
    factors = [warmup_to_zero(i / 100) for i in range(101)]
    assert 0 < factors[0] < 0.05 and factors[100] == 0 and max(factors) <= 1
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)


def test_dropout_is_set_everywhere():
    model = tiny_model(0.1)
    found = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    set_dropout(model, 0.0)
    assert found == {0.1} and {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


# -- loading pretrained models


def test_loading_is_silent():
    code = "from aigc_course.pretrained import load_language_model as f; m, t = f(); print(m.training, m.dtype)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False torch.float32\n", "")


OFFLINE = """
import time
from aigc_course.pretrained import hub_answers, load_language_model
began = time.monotonic()
assert not hub_answers()
for name in ("owner/missing", "a name/that no/hub has"):
    try:
        load_language_model(name)
    except OSError as error:
        assert "neither ships with the course" in str(error)
model, tokenizer = load_language_model("owner/tiny")
assert tokenizer.decode(tokenizer("a film").input_ids) == "a film" and model.config.n_embd == 16
assert time.monotonic() - began < 30
"""


def test_without_a_network_it_says_so_at_once_and_finds_what_an_earlier_visit_left(tmp_path):
    folder = tmp_path / "hub" / "models--owner--tiny"
    snapshot = folder / "snapshots" / ("0" * 40)
    tiny_model().save_pretrained(snapshot)
    gpt2_mini.train_tokenizer(["a film"]).save_pretrained(snapshot)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_hub_is_asked_once(monkeypatch):
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append((url, timeout))

    monkeypatch.setattr("aigc_course.pretrained.get_session", Session)
    began = time.monotonic()
    assert hub_answers(2) and asked == [("https://huggingface.co", 2)] and time.monotonic() - began < 1
    monkeypatch.setattr("aigc_course.pretrained.get_session", lambda: 1 / 0)
    assert not hub_answers()


def test_a_folder_of_ones_own_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("aigc_course.pretrained.get_session", lambda: 1 / 0)
    model = tiny_model()
    model.save_pretrained(tmp_path)
    GPT2Tokenizer.save_pretrained(gpt2_mini.train_tokenizer(["a film"]), tmp_path)
    loaded, _ = load_language_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters()))


# -- the recipe and the benchmark


def test_the_recipe_repeats_no_finished_training(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("AIGC_CHECKPOINTS", str(tmp_path))
    monkeypatch.setattr(recipe, "load_language_model", lambda name: (tiny_model(), None))
    monkeypatch.setattr(recipe, "LONGER", recipe.LONGER | {"epochs": 3})
    parts = {"train": rows[:32], "validation": rows[32:36], "test": rows[36:]}
    results = recipe.all_results([0, 1], parts)
    assert [row["seed"] for row in results["seeds"]] == [0, 1] and len(results["choices"]) == 8
    assert results["before"]["test"] == pytest.approx(perplexity(tiny_model(), rows[36:]))
    assert results["seeds"][0]["from scratch"]["steps"] == 4 and "from scratch, longer" in results["seeds"][0]
    starts = [row["from scratch"]["evaluations"][0] for row in results["seeds"]]
    assert starts[0] != starts[1]  # other random weights
    monkeypatch.setattr(recipe, "fine_tune", None)  # nothing is left to be trained
    assert recipe.all_results([0, 1], parts) == results
    assert recipe.folder().is_relative_to(tmp_path)


def test_the_stored_results_say_what_the_lesson_says():
    stored = stored_results("finetuning")
    assert stored["made_by"]["command"].startswith("python -m aigc_course.recipes.finetuning --seeds 0 1 2")
    assert [run["seed"] for run in stored["seeds"]] == [0, 1, 2]
    for run in stored["seeds"]:
        others = [stored["before"]["test"], *(run[name]["test"] for name in run if name.startswith("from scratch"))]
        assert 1.5 * run["fine-tuned"]["test"] < min(others)


def test_the_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "fresh_model", tiny_model)
    g = torch.Generator().manual_seed(0)
    made_up = [torch.randint(V, (n,), generator=g) for n in torch.randint(5, 30, (64,), generator=g).tolist()]
    monkeypatch.setattr(benchmark, "encode_snippets", lambda texts, tokenizer: made_up)
    monkeypatch.setattr(sys, "argv", "finetune --threads 1 --rounds 1 --steps 2 --snippets 32 --test 16".split())
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["the", "Trainer", "course/Trainer:"]
    assert float(lines[-1].split()[2]) > 0 and 0.5 < float(lines[-1].split()[4]) < 2
