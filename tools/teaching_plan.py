"""Writes the tables of docs/TEACHING.md and its Chinese twin from course.toml: which lessons in which week.

python tools/teaching_plan.py            writes the tables between the markers
python tools/teaching_plan.py --check    writes nothing, exits 1 where a table is out of date
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from classroom import exercises_of  # noqa: E402
from editions import read  # noqa: E402

from aigc_course.course import config, lessons  # noqa: E402

FILES = {"en": "docs/TEACHING.md", "zh": "docs/TEACHING.zh.md"}
HEADS = {
    "weeks": {
        "en": "| week | lessons | minutes to run | exercises, minutes |",
        "zh": "| 周次 | 内容 | 运行分钟数 | 练习分钟数 |",
    },
    "half_days": {
        "en": "| half-day | lessons | minutes to run | exercises, minutes |",
        "zh": "| 半天 | 内容 | 运行分钟数 | 练习分钟数 |",
    },
}
ROWS = {"half_days": {"en": ("1, morning", "1, afternoon", "2, morning", "2, afternoon"),
                      "zh": ("第一天上午", "第一天下午", "第二天上午", "第二天下午")}}  # fmt: skip
PLANNED = {"en": " (planned)", "zh": "（计划中）"}


def table(plan, language, root=ROOT):
    """One plan as a Markdown table; a lesson that is not written yet is named without a link."""
    known = {lesson.id: lesson for lesson in lessons(root, planned=True)}
    lines = [HEADS[plan][language], "|---|---|---|---|"]
    for k, ids in enumerate(config(root)["plan"][plan]):
        titles, run, work = [], 0, 0
        for lesson in (known[i] for i in ids):
            title, path = f"{lesson.id} {lesson.title[language]}", lesson.notebook(language, root)
            written = path.exists()
            titles.append(f"[{title}](../notebooks/{language}/{path.name})" if written else title + PLANNED[language])
            run += lesson.minutes or 0
            work += sum(minutes for _, _, minutes, _, _ in exercises_of(read(path))) if written else 0
        name = ROWS[plan][language][k] if plan in ROWS else k + 1
        lines.append(f"| {name} | {'<br>'.join(titles)} | {run or ''} | {work or ''} |")
    return "\n".join(lines)


def updated(text, language, root=ROOT):
    """The text of a TEACHING file with its tables made anew."""
    for plan in HEADS:
        pattern = rf"(<!-- {plan} -->\n).*?(<!-- /{plan} -->)"
        rows = table(plan, language, root)
        text = re.sub(pattern, rf"\g<1>{rows}\n\g<2>", text, flags=re.S)
    return text


def out_of_date(root=ROOT):
    """The files whose tables are not those that course.toml and the lessons give."""
    texts = {language: (root / file).read_text(encoding="utf-8") for language, file in FILES.items()}
    return [FILES[language] for language, text in texts.items() if text != updated(text, language, root)]


def without_notes(root=ROOT):
    """Written lessons that a file says nothing of to teachers: (file, id)."""
    texts = {file: (root / file).read_text(encoding="utf-8") for file in FILES.values()}
    noted = {file: re.findall(r"^### (\d\d) ", text, re.M) for file, text in texts.items()}
    return [(file, lesson.id) for file, ids in noted.items() for lesson in lessons(root) if lesson.id not in ids]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a table is out of date")
    options = parser.parse_args(arguments)
    found = out_of_date()
    for file in found:
        print(f"{'out of date' if options.check else 'written'}: {file}")
    if not options.check:
        for language, file in FILES.items():
            text = updated((ROOT / file).read_text(encoding="utf-8"), language)
            (ROOT / file).write_text(text, encoding="utf-8", newline="\n")
    for file, lesson_id in without_notes():
        print(f"{file} has no notes on lesson {lesson_id} yet, under a heading `### {lesson_id} ...`")
    return int(options.check and bool(found))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # a Windows console may not know Chinese
    sys.exit(main())
