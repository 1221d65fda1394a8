"""The recipes of the shipped language models on tiny data, and the shipped models themselves.

`torchrun test_recipes_pretraining.py RESULT` does what two processes share.
"""

import json
import math
import random
import re
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertForPreTraining

from aigc_course import pretrained
from aigc_course.files import DamagedFile
from aigc_course.language import token_nll
from aigc_course.models.gpt import GPTConfig
from aigc_course.recipes import bert_mini, gpt2_mini
from aigc_course.recipes.pretraining import KneserNey, MuonAdamW, compressed_bits, longest_copy, orthogonal
from aigc_course.runtime import seed_everything

V = 60
TINY_BERT = dict(num_hidden_layers=2, num_attention_heads=2, hidden_size=16, intermediate_size=32)
STEPS = 4


def made_up_reviews(count=30, seed=0):
    """Token tensors of many lengths, each closed by the end token V - 1."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 60, (count,), generator=g).tolist()
    return [torch.cat((torch.randint(V - 1, (n,), generator=g), torch.tensor([V - 1]))) for n in lengths]


def made_up_pairs(batch_size=8):
    """PairBatches of made-up segments; the first token of each says which one it is."""
    g = torch.Generator().manual_seed(0)
    sources = torch.arange(12).repeat_interleave(torch.arange(12) % 4 + 1)
    found = []
    for i in range(len(sources)):
        found.append(torch.cat((torch.tensor([5 + i]), torch.randint(5, V, (int(i * 5 % 60),), generator=g))))
    return found, sources, bert_mini.PairBatches(found, sources, V, batch_size=batch_size, seed=0)


# -- the optimiser


def test_without_a_split_it_is_adamw():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    options = dict(lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    optimizers = (
        MuonAdamW([{"params": ours.parameters(), "lr": 0.01, "weight_decay": 0.1}]),
        torch.optim.AdamW(theirs.parameters(), **options),
    )
    for step in range(5):
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
        for model, optimizer in zip((ours, theirs), optimizers):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert_close(a, b)


@pytest.mark.parametrize("shape", [(6, 16), (16, 6), (8, 8)])
def test_with_a_split_it_is_torchs_muon(shape):
    """torch computes the iteration in bfloat16, so the two agree in two digits."""
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    optimizers = (
        MuonAdamW([{"params": [ours], "lr": 0.1, "weight_decay": 0.1, "split": 1}]),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(4):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        for p, optimizer in zip((ours, theirs), optimizers):
            p.grad = gradient.clone()
            optimizer.step()
    assert_close(ours, theirs, atol=0.02, rtol=0)


def test_a_joint_matrix_is_treated_as_its_parts():
    torch.manual_seed(0)
    joint = torch.nn.Parameter(torch.randn(12, 4))
    parts = [torch.nn.Parameter(part.clone()) for part in joint.detach().split(4)]
    a = MuonAdamW([{"params": [joint], "lr": 0.1, "split": 3}])
    b = MuonAdamW([{"params": parts, "lr": 0.1, "split": 1}])
    joint.grad = torch.randn(12, 4)
    for part, gradient in zip(parts, joint.grad.split(4)):
        part.grad = gradient.clone()
    a.step()
    b.step()
    assert_close(joint.detach(), torch.cat([part.detach() for part in parts]))


def test_orthogonal_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((1, 16, 16), (2, 24, 8), (2, 8, 24)):
        x = torch.randn(shape)
        u, _, vt = torch.linalg.svd(x, full_matrices=False)
        found = orthogonal(x)
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.3 and values.max() < 1.3
        assert F.cosine_similarity(found.flatten(), (u @ vt).flatten(), dim=0) > 0.95


# -- what the models are compared with


def counted_by_hand(reviews, n, discounts):
    """p(token, context) by dictionaries, from Kneser and Ney's definition."""
    grams = Counter()
    for ids in reviews:
        padded = [V - 1] * (n - 1) + ids.tolist()
        grams.update(tuple(padded[i : i + n]) for i in range(len(ids)))
    orders = {n: grams}
    for order in range(n - 1, 0, -1):
        orders[order] = Counter(gram[1:] for gram in orders[order + 1])
    totals, kinds = defaultdict(int), defaultdict(int)
    for counts in orders.values():
        for gram, count in counts.items():
            totals[len(gram), gram[:-1]] += count
            kinds[len(gram), gram[:-1]] += 1

    def p(token, context):
        order = len(context) + 1
        lower = p(token, context[1:]) if context else 1 / V
        total = totals[order, context]
        if not total:
            return lower
        discount = discounts[order - 1]
        count = orders[order][*context, token]
        return (max(count - discount, 0) + discount * kinds[order, context] * lower) / total

    return p


def test_kneser_ney_is_its_definition_and_sums_to_one():
    training, unseen = made_up_reviews(200), made_up_reviews(3, seed=1)
    model = KneserNey([ids % 5 if len(ids) % 2 else ids for ids in training], 3, V)  # some n-grams are frequent
    by_hand = counted_by_hand([ids % 5 if len(ids) % 2 else ids for ids in training], 3, [o[-1] for o in model.orders])
    wanted = []
    for ids in unseen:
        padded = [V - 1, V - 1, *ids.tolist()]
        wanted += [by_hand(padded[i + 2], tuple(padded[i : i + 2])) for i in range(len(ids))]
    assert_close(model.probability(unseen), torch.tensor(wanted, dtype=torch.float64))
    for context in ((0, 1), (V - 1, V - 1), (7, 58)):
        assert sum(by_hand(token, context) for token in range(V)) == pytest.approx(1)
    with pytest.raises(ValueError, match="too many"):
        KneserNey(training, 5, 8192)


def test_compressors_learn_from_the_training_text():
    words = random.Random(0).choices([f"word{i}" for i in range(3000)], k=20_000)
    texts = [" ".join(words[i : i + 100]) for i in range(0, len(words), 100)]
    found = compressed_bits(texts[:20], texts[20:])
    assert 0 < found["xz -9, behind the training text"] < found["xz -9, validation alone"] < 8
    repeated = compressed_bits(texts[:1], texts[1:] + texts[:1])
    assert repeated["gzip -9, behind the training text"] < 0.5 < repeated["gzip -9, validation alone"]


def test_longest_copy_is_found_by_brute_force_too():
    draw = random.Random(0)
    texts, training = ([" ".join(draw.choices("abcde", k=12)) for _ in range(n)] for n in (5, 20))
    runs = [
        words[i:j] for words in map(str.split, texts) for i in range(len(words)) for j in range(i + 1, len(words) + 1)
    ]
    longest = max(len(run) for run in runs if any(f" {' '.join(run)} " in f" {text} " for text in training))
    found = longest_copy(texts, training)
    assert len(found.split()) == longest and any(f" {found} " in f" {text} " for text in training)
    assert longest_copy(["x y z"], ["p q r"]) == ""
    assert longest_copy(["p q", "r"], ["q r p"]) in ("p", "q", "r")  # a run does not go on into the next text
    assert longest_copy(["p q r"], ["p q r"]) == "p q r"


# -- BERT's examples


def test_the_80_10_10_rule():
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (400, 128), generator=g)
    ids[:, 0], ids[:, 60], ids[:, -4:] = bert_mini.CLS, bert_mini.SEP, bert_mini.PAD
    read, labels = bert_mini.mask_tokens(ids, 1000, g)
    chosen = labels != bert_mini.IGNORED
    assert torch.equal(labels[chosen], ids[chosen]) and not chosen[ids < 5].any()
    assert torch.equal(read[~chosen], ids[~chosen])
    assert chosen[ids >= 5].double().mean() == pytest.approx(0.15, abs=0.01)
    assert (read[chosen] == bert_mini.MASK).double().mean() == pytest.approx(0.8, abs=0.02)
    assert (read[chosen] == ids[chosen]).double().mean() == pytest.approx(0.1, abs=0.02)
    others = read[chosen & (read != ids) & (read != bert_mini.MASK)]
    assert others.min() >= 5 and len(others.unique()) > 400


def test_pairs_follow_or_come_from_another_text():
    found, sources, batches = made_up_pairs()
    texts = {}
    answers = []
    for step in range(3 * batches.per_epoch):
        batch = batches[step]
        ids = torch.where(batch["labels"] == bert_mini.IGNORED, batch["input_ids"], batch["labels"])  # unmasked
        for row, types, follows in zip(ids, batch["token_type_ids"], batch["follows"].tolist()):
            n, m = (row == bert_mini.SEP).nonzero().flatten().tolist()
            first, second = int(row[1]) - 5, int(row[n + 1]) - 5
            assert torch.equal(row[1:n], found[first]) and torch.equal(row[n + 1 : m], found[second])
            assert row[0] == bert_mini.CLS and (row[m + 1 :] == bert_mini.PAD).all()
            assert types[: n + 1].sum() == 0 and types[n + 1 : m + 1].all() and not types[m + 1 :].any()
            same = sources[first] == sources[second]
            assert follows == same and (not follows or second == first + 1)
            texts.setdefault(first, set()).add(second)
            answers.append(follows)
    assert 0.35 < sum(answers) / len(answers) < 0.8
    assert any(len(seconds) > 1 for seconds in texts.values())  # drawn anew in each epoch


def test_half_batches_make_the_whole():
    _, _, whole = made_up_pairs()
    halves = [made_up_pairs()[2] for _ in range(2)]
    for rank, half in enumerate(halves):
        half.divide(rank, 2)
    for name in ("input_ids", "token_type_ids", "labels", "follows"):
        assert torch.equal(whole[3][name], torch.cat([half[3][name] for half in halves]))
    assert whole[3]["masked"] == 2 * halves[0][3]["masked"]
    with pytest.raises(ValueError, match="multiple of 3"):
        whole.divide(0, 3)


def test_segments_are_the_text_cut_at_sentences():
    tokenizer = bert_mini.train_tokenizer(TEXTS)
    found, sources = bert_mini.segments(tokenizer, TEXTS)
    assert sources.tolist() == sorted(sources.tolist()) and max(map(len, found)) <= bert_mini.SEGMENT
    for i, text in enumerate(TEXTS):
        joined = torch.cat([run for run, source in zip(found, sources) if source == i]).tolist()
        assert joined == tokenizer(text, add_special_tokens=False).input_ids
    ends = [tokenizer.decode(run)[-1] for run, after in zip(found, sources.diff().tolist()) if after == 0]
    assert sum(end in ".!?\"')" for end in ends) > 0.9 * len(ends)


def test_only_masked_positions_are_in_the_loss():
    torch.manual_seed(0)
    model, batch = bert_mini.new_model(V, **TINY_BERT), made_up_pairs()[2][0]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens, pairs = bert_mini.pretraining_loss(model, batch)
    theirs = model(
        batch["input_ids"], attention_mask=(batch["input_ids"] != 0).long(), token_type_ids=batch["token_type_ids"],
        labels=batch["labels"], next_sentence_label=1 - batch["follows"],
    )  # fmt: skip
    assert_close(tokens + pairs, theirs.loss)
    for place, changed in ((batch["labels"] == bert_mini.IGNORED, False), (batch["labels"] >= 0, True)):
        logits = theirs.prediction_logits.detach().clone()
        i, j = place.nonzero()[0]
        logits[i, j] += torch.randn(V)
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=bert_mini.IGNORED)
        assert (abs(loss - tokens) > 1e-4) == changed


# -- two processes


def losses_of_both(accelerator):
    """A few steps of each recipe; every process has its part of each batch."""
    reviews, found = made_up_reviews(), {}
    seed_everything(0)
    model = gpt2_mini.new_model(GPTConfig(V, 16, 2, 2, 16))
    options = dict(steps=STEPS, accelerator=accelerator)
    history = gpt2_mini.pretrain(model, reviews, reviews, batch_size=8, seed=0, **options)
    found["gpt2"] = history["loss"], [score for _, score in history.evaluations]
    seed_everything(0)
    model, batches = bert_mini.new_model(V, **TINY_BERT), made_up_pairs()[2]
    history = bert_mini.pretrain(model, batches, [made_up_pairs()[2][0]], **options)
    found["bert"] = history["loss"], [score for _, score in history.evaluations]
    tokenizers = [module.train_tokenizer(TEXTS) for module in (gpt2_mini, bert_mini)]
    found["tokenizers"] = [tokenizer.backend_tokenizer.to_str() for tokenizer in tokenizers]
    return found


def test_two_processes_follow_the_loss_of_one(tmp_path, course_on_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**course_on_path, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*command, __file__, tmp_path / "rank"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    alone = losses_of_both(Accelerator(cpu=True))
    for rank in (0, 1):
        pair = json.loads((tmp_path / f"rank{rank}").read_text(encoding="utf-8"))
        for name in ("gpt2", "bert"):
            for ours, wanted in zip(pair[name], alone[name]):
                assert len(ours) == STEPS
                assert_close(ours, wanted, rtol=2e-3, atol=0)
            assert pair[name][0][0] == pytest.approx(alone[name][0][0], rel=1e-5)
        assert pair["tokenizers"] == alone["tokenizers"]  # the same in every process


# -- the recipes from beginning to end

PARTS = [
    f'Review {i}. This film is {kind}! "I saw it {n} times." Ann\'s friend Bob (of Rome) did not.\nWhy? É così {n}.'
    for i, (kind, n) in enumerate(zip(["good", "bad", "long", "short"] * 10, range(2, 42)))
]
TEXTS = ["\n".join(PARTS[(i + k) % 40] for k in range(4)) for i in range(40)]


def run_recipe(module, folder, monkeypatch, **changes):
    """main() of a recipe on TEXTS, at a size at which it takes seconds."""
    monkeypatch.setattr(module, "pretraining_reviews", lambda split: TEXTS[:30] if split == "train" else TEXTS[30:])
    for name, value in changes.items():
        monkeypatch.setattr(module, name, value)
    batch = ["--batch_size", "4", "--steps", "3", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["recipe", *batch, "--target", str(folder)])
    module.main()


def check_folder(folder, capsys):
    """Half precision on the disk, a card with nothing left open, sums of all that `from_pretrained` reads."""
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float16}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "research and teaching" in card and "{" not in card and "nan" not in card and "recipe" in card
    printed = capsys.readouterr().out
    assert all(path.name in printed for path in folder.iterdir() if path.suffix != ".md" and path.name != "log.json")
    log = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    assert len(log["validation loss"]) == 3
    assert all(b"\n" not in path.read_bytes() for path in folder.glob("*.json"))


def without_warnings(load, folder, caplog):
    """Loads a model; warnings and transformers' reports are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(folder)
    assert not caplog.records
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    return model.eval()


def test_gpt2_mini_from_beginning_to_end(tmp_path, monkeypatch, capsys, caplog):
    shape = dict(n_layer=1, n_head=2, n_embd=16)
    run_recipe(gpt2_mini, tmp_path, monkeypatch, SHAPE=shape, VOCAB_SIZE=300, CONTEXT=32)
    check_folder(tmp_path, capsys)
    model = without_warnings(AutoModelForCausalLM.from_pretrained, tmp_path, caplog)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    end = tokenizer.eos_token_id
    assert end == tokenizer.bos_token_id == 299 == model.config.eos_token_id == model.config.bos_token_id
    assert end == model.generation_config.eos_token_id and model.config.n_positions == 32
    ids = tokenizer("This film", return_tensors="pt")
    drawn = model.generate(**ids, max_new_tokens=5, do_sample=False)
    assert drawn.shape[1] <= ids.input_ids.shape[1] + 5 and not caplog.records
    for text in (*TEXTS[:3], " two  spaces\n\n, 中文 🎬"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    texts = TEXTS[30:]
    encoded = gpt2_mini.encode(tokenizer, texts)
    assert all(ids[-1] == end and end not in ids[:-1] for ids in encoded)

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids):
            return self.inner(input_ids).logits

    nll = token_nll(Logits(), encoded, context_length=32)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    bits = nll.double().sum().item() / math.log(2) / sum(len(text.encode()) for text in texts)
    assert f"| bits a byte, the model | {bits:.3f} |" in card


def test_bert_mini_from_beginning_to_end(tmp_path, monkeypatch, capsys, caplog):
    run_recipe(bert_mini, tmp_path, monkeypatch, SHAPE=TINY_BERT, VOCAB_SIZE=300)
    check_folder(tmp_path, capsys)
    model = without_warnings(BertForPreTraining.from_pretrained, tmp_path, caplog)
    assert model.config.hidden_dropout_prob == 0.1 and model.config.max_position_embeddings == 128
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("Ann", "film").input_ids[0] == bert_mini.CLS == tokenizer.cls_token_id
    assert (tokenizer.mask_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id) == (4, 3, 0)
    assert tokenizer.tokenize("Ann") != tokenizer.tokenize("ann")  # cased
    for text in TEXTS[:3]:
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids
    masked = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[2, 10, 4, 12, 3]])
    assert_close(masked(ids).logits, model(ids).prediction_logits)


# -- loading


def test_the_split_is_fixed_and_shares_no_review():
    training, validation = (pretrained.pretraining_reviews(split) for split in ("train", "validation"))
    assert (len(training), len(validation)) == (23_883, 1_000)
    begin = lambda text: re.sub("[^a-z]", "", text.lower())[:100]
    assert not set(map(begin, training)) & set(map(begin, validation))
    assert not any("<br" in text for text in training) and all(text == text.strip() for text in validation)
    with pytest.raises(ValueError, match="split"):
        pretrained.pretraining_reviews("test")


def test_a_model_that_is_not_there_and_one_that_is_damaged(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="neither ships with the course.*gpt2_mini or bert_mini"):
        pretrained.load_language_model("no-such-owner/no-such-model")
    folder = tmp_path / "models" / "some_mini"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  models/some_mini/config.json\n", encoding="utf-8")
    monkeypatch.setattr(pretrained, "DATA", tmp_path)
    monkeypatch.setattr("aigc_course.data.DATA", tmp_path)
    with pytest.raises(DamagedFile, match="config.json is damaged.*git checkout -- data/models/some_mini/config.json"):
        pretrained.load_language_model("some_mini")
    for damage in (b"", b"\xff\n\n?", b"0" * 64, None):  # emptied, altered, cut, removed
        (tmp_path / "SHA256SUMS").unlink() if damage is None else (tmp_path / "SHA256SUMS").write_bytes(damage)
        for load, name in ((pretrained.load_language_model, "gpt2_mini"), (pretrained.load_encoder, "bert_mini")):
            with pytest.raises(DamagedFile, match="SHA256SUMS is missing or damaged.*git checkout -- data/SHA256SUMS"):
                load(name)


def shipped(name):
    """The folder of a model that ships with the course; the test is skipped until a recipe has made it."""
    if not (pretrained.MODELS / name / "README.md").is_file():
        pytest.skip(f"python -m aigc_course.recipes.{name} has not made it")
    return pretrained.MODELS / name


def test_the_shipped_gpt2_is_as_its_card_says(caplog):
    folder = shipped("gpt2_mini")
    plain = without_warnings(AutoModelForCausalLM.from_pretrained, folder, caplog)
    model, tokenizer = pretrained.load_language_model()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16 * 2**20
    assert 3e6 < sum(p.numel() for p in model.parameters()) < 8e6
    for a, b in zip(plain.parameters(), model.parameters()):
        assert torch.equal(a, b)
    texts = pretrained.pretraining_reviews("validation")[:20]
    total = count = 0
    with torch.no_grad():
        for ids in gpt2_mini.encode(tokenizer, texts):
            ids = torch.cat((ids[-1:], ids))[: model.config.n_positions]
            total += F.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="sum").item()
            count += len(ids) - 1
    card = (folder / "README.md").read_text(encoding="utf-8")
    says = lambda name: float(re.search(rf"\| {name} \| ([\d.]+) \|", card)[1])
    assert total / count == pytest.approx(says("nats a token, the model"), rel=0.06)
    assert says("bits a byte, the model") < 1.65
    assert says("bits a byte, the model") < says(r"bits a byte, counted 5-grams \(Kneser-Ney\) on the same tokens")


def test_the_shipped_bert_is_as_its_card_says(caplog):
    folder = shipped("bert_mini")
    without_warnings(BertForPreTraining.from_pretrained, folder, caplog)
    model, tokenizer = pretrained.load_encoder()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16 * 2**20
    parts = bert_mini.segments(tokenizer, pretrained.pretraining_reviews("validation")[:60])
    batches = bert_mini.PairBatches(*parts, len(tokenizer), batch_size=32, seed=0)
    found = bert_mini.judge(model, [batches[i] for i in range(4)])
    card = (folder / "README.md").read_text(encoding="utf-8")
    says = lambda name: float(re.search(rf"\| {name} \| ([\d.]+) \|", card)[1])
    assert found["loss of masked tokens, nats"] == pytest.approx(says("loss of masked tokens, nats"), rel=0.1)
    assert says("masked tokens found, share") > 5 * says("masked tokens found by the most frequent token, share")


if __name__ == "__main__":
    torch.set_num_threads(1)
    shared = Accelerator(cpu=True)
    Path(f"{sys.argv[1]}{shared.process_index}").write_text(json.dumps(losses_of_both(shared)), encoding="utf-8")
    shared.end_training()
