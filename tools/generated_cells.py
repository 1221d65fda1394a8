"""Writes the cells that every lesson gets from course.toml: its title and, for Colab, its first code cell.

python tools/generated_cells.py            writes the cells `title` and `colab` in both editions
python tools/generated_cells.py --check    writes nothing, exits 1 where a cell is out of date
python tools/generated_cells.py --repository https://github.com/somebody/their-fork
                                           puts another address into course.toml first
"""

import argparse
import re
import sys
from pathlib import Path

from nbformat import v4

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from editions import read, write_if_changed  # noqa: E402

from aigc_course.course import config, lessons  # noqa: E402

COLAB = """\
# Only on Colab: fetches the course and installs what is missing. Elsewhere this cell does nothing.
import subprocess
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    if not Path("aigc-course").exists():
        address = ["--branch", "{branch}", "{url}"]
        subprocess.run(["git", "clone", "--depth", "1", *address, "aigc-course"], check=True)
    subprocess.run([sys.executable, "aigc-course/manage.py", "colab"], check=True)
    sys.path.insert(0, str(Path("aigc-course").resolve()))"""


def title_cell(lesson, language, root=ROOT):
    """The Markdown of a lesson's first cell: title, links, minutes, and what the lesson builds on."""
    repository = config(root)["repository"]
    owner = repository["url"].removeprefix("https://github.com/")
    file = f"{lesson.name}.ipynb"
    colab = f"https://colab.research.google.com/github/{owner}/blob/{repository['branch']}/notebooks/{language}/{file}"
    known = {other.id: other for other in lessons(root, planned=True)}
    minutes = None if lesson.minutes is None else max(1, round(lesson.minutes))

    def reference(lesson_id):
        other = known[lesson_id]
        title = other.title[language]
        text = f"lesson {other.id}, {title}" if language == "en" else f"第 {other.id} 课《{title}》"
        return f"[{text}]({other.name}.ipynb)" if other.notebook("en", root).exists() else text

    needs = [reference(lesson_id) for lesson_id in lesson.needs]
    if language == "en":
        links = [f"[Open in Colab]({colab})", f"[中文](../zh/{file})"]
        time = f"about {minutes} minute{'s' if minutes != 1 else ''} on two CPU cores"
        builds_on = f"Builds on {'; '.join(needs)}."
    else:
        links = [f"[在 Colab 中打开]({colab})", f"[English](../en/{file})"]
        time = f"在双核 CPU 上约需 {minutes} 分钟"
        builds_on = f"先修内容：{'、'.join(needs)}。"
    first = " · ".join(links + ([] if minutes is None else [time]))
    lines = [f"# {lesson.id} · {lesson.title[language]}", first] + ([builds_on] if needs else [])
    return "\n\n".join(lines)


def colab_cell(root=ROOT):
    """The code of the cell that makes a lesson run on Colab; the same in every lesson and language."""
    return COLAB.format(**config(root)["repository"])


def with_generated_cells(notebook, lesson, language, root=ROOT):
    """Puts both cells' text into `notebook`; where a cell is missing it is added at the top."""
    cells = {cell.id: cell for cell in notebook.cells}
    if "title" not in cells:
        cells["title"] = v4.new_markdown_cell(id="title")
        notebook.cells.insert(0, cells["title"])
    if "colab" not in cells:
        cells["colab"] = v4.new_code_cell(id="colab")
        notebook.cells.insert(notebook.cells.index(cells["title"]) + 1, cells["colab"])
    cells["title"].source = title_cell(lesson, language, root)
    cells["colab"].source = colab_cell(root)
    return notebook


def out_of_date(root=ROOT, write=False):
    """Paths of notebooks whose generated cells differ from course.toml; with `write` they are put right."""
    found = []
    for lesson in lessons(root):
        for language in ("en", "zh"):
            path = lesson.notebook(language, root)
            if not path.exists():
                continue  # a Chinese edition that `editions.py sync` has yet to make
            before, after = read(path), with_generated_cells(read(path), lesson, language, root)
            if before != after:
                found.append(path)
                if write:
                    write_if_changed(path, after)
    return found


def set_repository(url, root=ROOT):
    """Changes the repository's address in course.toml and nothing else in it."""
    url = url.removesuffix("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise SystemExit(f"Colab opens notebooks from https://github.com/OWNER/NAME; this is {url}")
    path = Path(root) / "course.toml"
    line = re.compile(rb'(?ms)(^\[repository\][^\[]*?^url\s*=\s*)"[^"\n]*"')
    text, count = line.subn(lambda match: match[1] + b'"%s"' % url.encode(), path.read_bytes(), count=1)
    if not count:
        raise SystemExit(f'{path} has no line url = "..." under [repository]')
    if text != path.read_bytes():
        path.write_bytes(text)


def main(arguments=None):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a cell is out of date")
    parser.add_argument("--repository", metavar="URL", help="the new address, for a fork")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.check and options.repository:
        parser.error("--check writes nothing, so it cannot change the address")
    if options.repository:
        set_repository(options.repository, options.root)
    found = out_of_date(options.root, write=not options.check)
    for path in found:
        print(f"{'out of date' if options.check else 'written'}: {path.relative_to(options.root).as_posix()}")
    return int(options.check and bool(found))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # a Windows console may not know Chinese
    sys.exit(main())
