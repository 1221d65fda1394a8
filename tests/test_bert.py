"""Lesson 17: spans against seqeval, labels on pieces, the tagger against transformers, killed runs, results."""

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from torch.testing import assert_close
from transformers import BertConfig, BertForTokenClassification, BertModel

from aigc_course.data import stored_results
from aigc_course.exercises import lesson_17
from aigc_course.ner import (
    IGNORED,
    NER_TYPES,
    PARTS,
    TAGS,
    LengthBatches,
    TokenClassifier,
    align,
    collate_tagged,
    gazetteer,
    name_counts,
    ner_sentences,
    new_encoder,
    precision_recall_f1,
    predict_tags,
    spans,
    surfaces,
    tags_from_list,
    train_tagger,
    word_features,
    word_shape,
    words_and_tags,
)
from aigc_course.recipes import bert_mini, named_entities


@pytest.fixture(scope="module")
def tokenizer():
    """A cased WordPiece tokenizer trained on a few sentences, so that most words are cut."""
    bert_mini_size, bert_mini.VOCAB_SIZE = bert_mini.VOCAB_SIZE, 400
    yield bert_mini.train_tokenizer([text for text, _ in ner_sentences("train")[:100]])
    bert_mini.VOCAB_SIZE = bert_mini_size


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    shape = dict(vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    return BertModel(BertConfig(**shape, max_position_embeddings=192)).eval()


def random_tags(n=400, noise=0.5):
    """(truth, said): random tags, legal or not, and the same with some drawn anew."""
    draw = random.Random(0)
    truth = [[draw.choice(TAGS) for _ in range(draw.randint(1, 12))] for _ in range(n)]
    return truth, [[draw.choice(TAGS) if draw.random() < noise else tag for tag in line] for line in truth]


# -- tags


def test_tags_are_nine():
    assert TAGS == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-WORK", "I-WORK")


def test_words_and_tags_by_hand():
    words, tags = words_and_tags("Lee Remick's on Broadway.", [(0, 10, "PER"), (16, 24, "LOC")])
    assert words == ["Lee", "Remick", "'", "s", "on", "Broadway", "."]
    assert tags == ["B-PER", "I-PER", "O", "O", "O", "B-LOC", "O"]


@pytest.mark.parametrize("part", PARTS)
def test_every_name_of_the_corpus_comes_back_from_its_tags(part):
    for text, names in ner_sentences(part):
        words, tags = words_and_tags(text, names)
        found = sorted(("".join(words[a:b]), kind) for a, b, kind in spans(tags))
        assert found == sorted(("".join(text[a:b].split()), kind) for a, b, kind in names)


@pytest.mark.parametrize(
    "tags, names",
    [
        ("O O", set()),
        ("B-PER I-PER O", {(0, 2, "PER")}),
        ("B-PER B-PER", {(0, 1, "PER"), (1, 2, "PER")}),
        ("I-PER I-PER", set()),
        ("O I-PER B-LOC", {(2, 3, "LOC")}),
        ("B-PER I-LOC", {(0, 1, "PER")}),
        ("B-PER I-LOC I-PER", {(0, 1, "PER")}),
        ("B-WORK I-WORK I-WORK", {(0, 3, "WORK")}),
        ("", set()),
    ],
)
def test_spans_by_hand(tags, names):
    assert spans(tags.split()) == names


def test_scores_are_those_of_seqeval_in_strict_mode():
    truth, said = random_tags()
    strict = dict(mode="strict", scheme=IOB2)
    ours = precision_recall_f1(name_counts(truth, said).sum((0, 1))).tolist()
    assert ours == pytest.approx([score(truth, said, **strict) for score in (precision_score, recall_score, f1_score)])
    by_type = precision_recall_f1(name_counts(truth, said).sum(0))[:, 2].tolist()
    assert by_type == pytest.approx([f1_score(truth, said, average=None, **strict)[i] for i in (2, 1, 0, 3)])  # by name


def test_counts_by_hand_and_of_chosen_names():
    truth, said = [["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-ORG", "B-WORK"]]
    expected = torch.zeros(1, 4, 3, dtype=torch.long)
    expected[0, NER_TYPES.index("PER")] = torch.tensor([1, 1, 1])
    expected[0, NER_TYPES.index("ORG"), 1] = expected[0, NER_TYPES.index("WORK"), 1] = 1
    expected[0, NER_TYPES.index("LOC"), 2] = 1
    assert torch.equal(name_counts(truth, said), expected)
    late = name_counts(truth, said, lambda i, start, end: start >= 2)
    assert late.sum().item() == 3 and late[0, 0].sum() == 0


def test_nothing_said_and_nothing_there_is_no_division_by_zero():
    assert precision_recall_f1(torch.zeros(3)).tolist() == [0, 0, 0]


# -- taggers without a network


def test_the_list_of_names_takes_the_commonest_type_and_the_longest_run():
    words = [["New", "York"], ["New", "York"], ["York"], ["New", "York"]]
    tags = [["B-LOC", "I-LOC"], ["B-WORK", "I-WORK"], ["B-PER"], ["B-WORK", "I-WORK"]]
    names = gazetteer(words, tags)
    assert names == {("New", "York"): "WORK", ("York",): "PER"}
    assert tags_from_list("York , New York City York".split(), names) == [
        "B-PER",
        "O",
        "B-WORK",
        "I-WORK",
        "O",
        "B-PER",
    ]
    assert surfaces(words, tags) == {("new", "york"), ("york",)}


def test_shapes_and_features():
    assert [word_shape(w) for w in ("Remick", "USA", "48", "d'Art", "ER2")] == ["Xx", "X", "0", "x'Xx", "X0"]
    first, second = word_features(["Lee", "Remick"])
    assert first["word -1"] == "<s>" and first["word +1"] == "remick" and second["shape -1"] == "Xx"
    assert second["ends"] == "ick" and second["word +1"] == "</s>"
    assert [row["quoted"] for row in word_features(['"', "Jaws", '"', "and"])] == [0, 1, 1, 0]


# -- labels on pieces


def test_labels_stand_on_first_pieces_only(tokenizer):
    for sentence in ner_sentences("train")[:150]:
        words, tags = words_and_tags(*sentence)
        input_ids, labels = align(words, tags, tokenizer)
        assert len(input_ids) == len(labels) and [TAGS[k] for k in labels[labels != IGNORED]] == tags
        pieces = tokenizer.convert_ids_to_tokens(input_ids.tolist())
        assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]" and labels[0] == labels[-1] == IGNORED
        assert all(label == IGNORED for piece, label in zip(pieces, labels) if piece.startswith("##"))
        assert any(piece.startswith("##") for piece in pieces)


def test_every_row_comes_once_an_epoch_with_little_padding(tokenizer):
    rows = [align(*words_and_tags(*s), tokenizer) for s in ner_sentences("train")[:100]]
    batches = LengthBatches(rows, batch_size=8, seed=1)
    epochs = [[batches[epoch * batches.per_epoch + i] for i in range(batches.per_epoch)] for epoch in range(2)]
    as_text = lambda row, mask: tuple(row[mask.bool()].tolist())
    for epoch in epochs:
        seen = sorted(as_text(*pair) for batch in epoch for pair in zip(batch["input_ids"], batch["attention_mask"]))
        assert seen == sorted(tuple(ids.tolist()) for ids, _ in rows)
        assert sum((batch["attention_mask"] == 0).sum() for batch in epoch) < 0.25 * sum(len(ids) for ids, _ in rows)
    assert not torch.equal(epochs[0][0]["input_ids"], epochs[1][0]["input_ids"])
    again = LengthBatches(rows, batch_size=8, seed=1)[batches.per_epoch]
    assert torch.equal(again["input_ids"], epochs[1][0]["input_ids"])


def test_padding_is_neither_seen_nor_asked(tokenizer):
    rows = [align(*words_and_tags(*s), tokenizer) for s in ner_sentences("train")[:6]]
    batch = collate_tagged(rows)
    assert torch.equal(batch["attention_mask"] == 0, batch["input_ids"] == tokenizer.pad_token_id)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()


# -- the tagger


def test_same_weights_in_transformers_give_the_same_logits_and_loss(tokenizer, encoder):
    ours = TokenClassifier(encoder).eval()
    config = BertConfig.from_dict(encoder.config.to_dict() | {"num_labels": len(TAGS)})
    theirs = BertForTokenClassification(config).eval()
    theirs.bert.load_state_dict(encoder.state_dict(), strict=False)
    theirs.classifier.load_state_dict(ours.head.state_dict())
    batch = collate_tagged([align(*words_and_tags(*s), tokenizer) for s in ner_sentences("train")[:6]])
    logits = ours(batch["input_ids"], batch["attention_mask"])
    assert_close(logits, theirs(**batch).logits)
    assert_close(F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()), theirs(**batch).loss)


def test_predictions_come_in_the_order_of_the_rows(tokenizer, encoder):
    model = TokenClassifier(encoder).eval()
    pairs = [words_and_tags(*s) for s in ner_sentences("test")[:20]]
    rows = [align(*pair, tokenizer) for pair in pairs]
    together = predict_tags(model, rows, batch_size=7)
    assert [len(said) for said in together] == [len(words) for words, _ in pairs]
    assert together == [predict_tags(model, [row])[0] for row in rows]


def test_a_new_encoder_has_the_shape_and_nothing_else(encoder):
    other = new_encoder(encoder)
    assert {k: v.shape for k, v in other.state_dict().items()} == {k: v.shape for k, v in encoder.state_dict().items()}
    assert not torch.equal(other.embeddings.word_embeddings.weight, encoder.embeddings.word_embeddings.weight)


class Killed(Exception):
    pass


def test_a_killed_training_ends_as_if_nothing_had_happened(tokenizer, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("AIGC_CHECKPOINTS", str(tmp_path))
    rows = [align(*words_and_tags(*s), tokenizer) for s in ner_sentences("train")[:48]]
    state = {name: value.clone() for name, value in encoder.state_dict().items()}

    def run(kill_after=None):
        encoder.load_state_dict(state)
        torch.manual_seed(3)
        model = TokenClassifier(encoder)
        calls, forward = itertools.count(), model.forward

        def counted(*arguments):
            if model.training and next(calls) == kill_after:
                raise Killed
            return forward(*arguments)

        model.forward = counted
        train_tagger(
            model, rows[:32], rows[32:], epochs=4, rate=1e-3, seed=0, batch_size=8, checkpoint="test_names",
            checkpoint_every=3,
        )  # fmt: skip
        return {name: value.clone() for name, value in model.state_dict().items()}

    whole = run()
    with pytest.raises(Killed):
        run(kill_after=11)
    resumed = run()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert not (tmp_path / "test_names").exists()


def test_a_tagger_learns_by_heart_what_it_is_shown(tokenizer, encoder):
    rows = [align(*words_and_tags(*s), tokenizer) for s in ner_sentences("train")[:8]]
    truth = [words_and_tags(*s)[1] for s in ner_sentences("train")[:8]]
    torch.manual_seed(0)
    model = TokenClassifier(encoder)
    history = train_tagger(model, rows, rows, epochs=60, rate=3e-3, seed=0, batch_size=4)
    f1 = precision_recall_f1(name_counts(truth, predict_tags(model, rows)).sum((0, 1)))[2].item()
    assert f1 > 0.9 and f1 == pytest.approx(1 - min(score for _, score in history.evaluations))


# -- the recipe, and what it stored


def test_figures_by_hand():
    parts = {
        "train": ([["Lee", "won"]], [["B-PER", "O"]]),
        "test": ([["lee", "saw", "Kim", "Novak"]], [["B-PER", "O", "B-PER", "I-PER"]]),
    }
    row = named_entities.figures(parts, "test", [["B-PER", "B-LOC", "O", "B-PER"]])
    assert row["precision"] == pytest.approx(1 / 3) and row["recall"] == pytest.approx(1 / 2)
    assert row["F1"] == pytest.approx(2 / 5) and row["PER"] == pytest.approx(2 / 4)
    assert row["seen names"] == 1 and row["unseen names"] == 0 and row["ORG"] == row["LOC"] == 0


def test_results_hold_every_tagger_and_every_seed():
    results = stored_results("named_entities")
    assert results["made_by"]["command"].startswith("python -m aigc_course.recipes.named_entities --seeds 0 1 2")
    assert list(results["systems"]) == ["list of names", "word shapes", "BERT mini", "from scratch"]
    for name, rates in named_entities.RATES.items():
        assert [row["seed"] for row in results["systems"][name]] == [0, 1, 2]
        choice = results["choice"][name]
        assert [float(rate) for rate in choice["tried"]] == list(rates)
        assert choice["tried"][str(choice["best"])] == max(choice["tried"].values())
    for rows in results["systems"].values():
        for row in rows:
            both = row["precision"] + row["recall"]
            assert row["F1"] == pytest.approx(2 * row["precision"] * row["recall"] / both)
    lowest = min(row["F1"] for row in results["systems"]["BERT mini"])
    assert lowest > max(row["F1"] for name in ("from scratch", "list of names") for row in results["systems"][name])


# -- exercises


def test_the_path_of_the_exercise_is_the_best_of_all():
    for seed in range(5):
        logits, allowed = lesson_17.path_case(torch.Generator().manual_seed(seed))
        logits = logits[:6]
        assert torch.equal(lesson_17.best_path(logits, allowed), lesson_17.all_paths(logits, allowed))
