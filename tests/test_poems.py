"""The Tang poems, their builder on a small collection, and what judges a poem."""

import importlib.util
import io
import json
import lzma
import tarfile
import zipfile

import pytest
import torch
import torch.nn.functional as F

from aigc_course import poems as module
from aigc_course.files import DamagedFile
from aigc_course.models.gpt import GPT, GPTConfig
from aigc_course.paths import ROOT
from aigc_course.poems import (
    FORMS,
    Characters,
    form,
    form_shares,
    lines,
    rhyme,
    rhyme_rate,
    rhymes,
    share_of_known_lines,
    shuffle_lines,
    tang_poem_credits,
    tang_poems,
)
from aigc_course.recipes.poems import CONTEXT, IGNORED, as_rows, poem_loss, sample, validation_loss, vocabulary_of

DAWN = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"
TRADITIONAL = "東馬鳥風雲來時書長門見開無愛飛聲夢後說龍葉燈煙劍頭樓歸閑關鄉對國華萬這點體學過邊還魚難離"
FIXTURE = [  # (title, paragraphs); what becomes of each stands in the test below
    ("登樓（一作登鸛雀樓）", ["白日依山盡，黃河入海流。", "欲窮千里目（一作「眼」），更上一層樓。"]),
    ("春曉", ["春眠不覺曉，處處聞啼鳥。", "夜來風雨聲，花落知多少？"]),
    ("別本", ["白日依山盡，黃河入海流。", "望窮千里目，更上一高樓。"]),
    ("闕字", ["□□依山盡，黃河入海流。", "欲窮千里目，更上一層樓。"]),
    ("闕字", ["囗日照山盡，黃河過海流。", "欲知千里事，須上一層樓。"]),
    ("長短", ["白日依山盡，黃河入海流。", "欲窮千里之目，更上一層樓。"]),
    ("六句", ["一二三四五，一二三四六。"] * 3),
    ("七言", ["葡萄美酒夜光杯，欲飲琵琶馬上催。", "醉臥「沙場」君莫笑，古來征戰幾人回！"]),
]


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_tang_poems", ROOT / "tools" / "build_tang_poems.py")
    built = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(built)
    return built


def simplify(text):
    """Stands in for OpenCC, which tests do not need."""
    return text.translate(
        str.maketrans("盡黃窮層樓覺曉處聞鳥來風聲別飲馬臥場戰幾東銅", "尽黄穷层楼觉晓处闻鸟来风声别饮马卧场战几东铜")
    )


def collection(folder):
    poems = [{"author": "某人", "title": title, "paragraphs": text} for title, text in FIXTURE]
    path = folder / "chinese-poetry.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for number, part in ((1000, poems[4:]), (0, poems[:4])):
            content = json.dumps(part).encode()
            entry = tarfile.TarInfo(f"package/dist/quantangshi/poet.tang.{number}.json")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_the_builder_keeps_regular_verse_and_nothing_else(builder, tmp_path):
    kept = builder.regular_verse(builder.collected_poems(collection(tmp_path)), simplify)
    assert [(author, title, builder.as_verse(text)) for author, title, text in kept] == [
        ("某人", "登楼", "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"),
        ("某人", "春晓", DAWN),
        ("某人", "七言", "葡萄美酒夜光杯，欲饮琵琶马上催。醉卧沙场君莫笑，古来征战几人回。"),
    ]


def test_the_builder_gives_the_same_bytes_again(builder, tmp_path):
    rows = builder.regular_verse(builder.collected_poems(collection(tmp_path)), simplify)
    for folder in ("a", "b"):
        builder.write(tmp_path / folder / "poems.txt.xz", [(a, t, builder.as_verse(text)) for a, t, text in rows])
    first = (tmp_path / "a" / "poems.txt.xz").read_bytes()
    assert first == (tmp_path / "b" / "poems.txt.xz").read_bytes()
    assert lzma.decompress(first).decode().count("\n") == 3


def test_the_builder_reads_the_rhyme_table(builder, tmp_path):
    path = tmp_path / "pingshui.whl"
    with zipfile.ZipFile(path, "w") as archive:
        table = {"ping": {"上平": {"上平聲一東": ["東同", "銅Public domain"]}}, "ze": {"上": {"上聲一董": ["同"]}}}
        archive.writestr(builder.RHYMES, json.dumps(table))
    assert builder.rhyme_table(path, simplify, used=set("东同铜")) == [("上平声一东", "东同铜"), ("上声一董", "同")]


def test_the_collection_is_what_the_lessons_say():
    poems = tang_poems()
    assert len(poems) == len(set(poems)) == 36_781
    assert all(form(poem) for poem in poems)
    shares = form_shares(poems)
    assert list(shares) == [*FORMS, None] and sum(shares.values()) == pytest.approx(1)
    assert 0.35 < shares[8, 5] < 0.42 and 0.08 < shares[4, 5] < 0.12 and shares[None] == 0
    assert DAWN in poems
    characters = set("".join(poems))
    assert not characters & set(TRADITIONAL) and "□" not in characters and "囗" not in characters
    assert len(characters) < 6_700


def test_credits_stand_in_the_poems_order():
    poems, credits = tang_poems(), tang_poem_credits()
    assert len(credits) == len(poems) and credits[poems.index(DAWN)] == ("孟浩然", "春晓")
    assert all(author and title for author, title in credits)


def test_the_split_is_one_in_twenty_and_shares_no_poem():
    train, validation = tang_poems("train"), tang_poems("validation")
    assert len(validation) == 1_840 and sorted(train + validation) == sorted(tang_poems())
    assert share_of_known_lines(validation, train) < 0.01
    with pytest.raises(ValueError, match="split"):
        tang_poems("test")


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "tang_poems").mkdir()
    (tmp_path / "tang_poems" / "tang_poems.txt.xz").write_bytes(b"cut")
    monkeypatch.setattr(module, "DATA", tmp_path)
    module.read_table.cache_clear()
    with pytest.raises(DamagedFile, match="tang_poems.txt.xz is damaged.*git checkout"):
        tang_poems()


@pytest.mark.parametrize(
    "poem",
    [
        "",
        DAWN[:-1],
        DAWN + DAWN[:12],
        DAWN.replace("晓", ""),
        DAWN.replace("，", "。"),
        DAWN.replace("处处", "处处处处"),
        DAWN.replace("春", "A"),
        DAWN.replace("。", "。\n"),
        DAWN[12:],
        "春眠不觉，处处闻啼。夜来风雨，花落知多。",
    ],
)
def test_what_is_no_regular_form(poem):
    assert form(poem) is None


def test_form_of_regular_verse():
    assert form(DAWN) == (4, 5) and form(DAWN * 2) == (8, 5)
    seven = "葡萄美酒夜光杯，欲饮琵琶马上催。醉卧沙场君莫笑，古来征战几人回。"
    assert form(seven) == (4, 7) and form(seven * 2) == (8, 7)
    assert lines(DAWN) == ["春眠不觉晓", "处处闻啼鸟", "夜来风雨声", "花落知多少"]


def test_rhymes_of_the_table():
    assert rhyme("流", "楼") and rhyme("鸟", "少") and rhyme("杯", "回")
    assert rhyme("斜", "家")  # no rhyme in today's pronunciation
    assert not rhyme("东", "冬")  # and one that is a rhyme only today
    assert not rhyme("流", "流") and not rhyme("流", "山") and not rhyme("A", "B")
    assert len(set().union(*rhymes().values())) == 106


def test_poems_rhyme_and_shuffled_lines_do_not():
    poems = tang_poems()
    shuffled = shuffle_lines(poems, seed=0)
    assert rhyme_rate(poems) > 0.94
    assert rhyme_rate(shuffled) < 0.08
    assert form_shares(shuffled) == form_shares(poems)
    assert sorted("".join(shuffled)) == sorted("".join(poems))
    assert shuffled == shuffle_lines(poems, seed=0) != shuffle_lines(poems, seed=1)
    known = sum(c in rhymes() for poem in poems for c in poem[-2]) / len(poems)
    assert known > 0.99


def test_share_of_known_lines():
    assert share_of_known_lines([DAWN], [DAWN]) == 1
    assert share_of_known_lines([DAWN], ["春眠不觉晓，处处闻啼鸡。夜来风雨声，花落知多小。"]) == 0.5
    assert share_of_known_lines([DAWN], []) == 0


def test_characters_there_and_back():
    vocabulary = Characters("，。春眠")
    assert len(vocabulary) == 5 and vocabulary.encode("春，") == [3, 1]
    assert vocabulary.decode([3, 4, 1, 0, 3]) == "春眠，" == vocabulary.decode(torch.tensor([0, 3, 4, 1, 0]))
    with pytest.raises(ValueError, match="not in the vocabulary: 晓"):
        vocabulary.encode("春晓")


def test_a_row_holds_one_poem_and_padding_costs_nothing():
    poems = [DAWN] * 3 + [DAWN * 2] + [DAWN.replace("春", "稀")]  # 稀: in one poem only, so it gets no number
    vocabulary = vocabulary_of(poems)
    rows = as_rows(poems, vocabulary)
    assert rows.shape == (4, CONTEXT + 1) and "稀" not in vocabulary.characters
    assert rows[0, 0] == 0 and rows[0, 25] == 0 and (rows[0, 26:] == IGNORED).all() and (rows[0, :26] >= 0).all()
    torch.manual_seed(0)
    model = GPT(GPTConfig(len(vocabulary), CONTEXT, 2, 2, 16)).eval()
    alone = F.cross_entropy(model(rows[:1, :25])[0], rows[0, 1:26])
    torch.testing.assert_close(poem_loss(model, rows[:1]), alone)
    by_hand = sum(F.cross_entropy(model(r[None, :-1].clamp(min=0))[0], r[1:], reduction="sum") for r in rows)
    assert validation_loss(model, rows) == pytest.approx(by_hand.item() / (3 * 25 + 49), rel=1e-5)


def test_samples_of_a_model_that_learned_one_poem_are_that_poem():
    vocabulary = vocabulary_of([DAWN] * 3)
    rows = as_rows([DAWN] * 3, vocabulary)
    torch.manual_seed(0)
    modern = dict(norm="rms", positions="rotary", activation="relu2")
    model = GPT(GPTConfig(len(vocabulary), CONTEXT, 2, 2, 32, **modern))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        poem_loss(model, rows).backward()
        optimizer.step()
    assert sample(model.eval(), vocabulary, 5, torch.Generator().manual_seed(0)) == [DAWN] * 5
