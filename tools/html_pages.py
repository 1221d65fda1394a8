"""Renders both editions to build/html/ for reading offline: `make html`, or `python tools/html_pages.py`.

`index.html` is the start page, `index.zh.html` the Chinese one; every page leads to its twin in the other language,
and every lesson back to the start. The pages load nothing from the network, and follow the reader's light or dark
theme. Mathematics is set by MathJax 2.7, copied beside the pages from the package jupyter-server-mathjax. (This file
is not called html.py, for Python would then import it in place of its own module `html`.)
"""

import argparse
import html
import os
import re
import shutil
import sys
from pathlib import Path

import jupyter_server_mathjax
import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from aigc_course.course import config, lessons  # noqa: E402

MATHJAX = Path(jupyter_server_mathjax.__file__).parent / "static"
# TeX input and HTML output with its web fonts; no menus, no other input or output, no readers of MathML.
MATHJAX_PARTS = (
    "LICENSE", "MathJax.js", "config/TeX-AMS-MML_HTMLorMML-full.js", "extensions/TeX", "extensions/HTML-CSS",
    "jax/element", "jax/input/TeX", "jax/output/HTML-CSS", "fonts/HTML-CSS",
)  # fmt: skip
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]

# MathJax's font without glyphs (MathJax_Blank) would ask for about:blank, which browsers refuse and call an error. The
# name of a font that nobody has does the same without one.
PAGE = """\
<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="../style.css">
<script type="text/x-mathjax-config">
MathJax.Hub.Config({{
  jax: ["input/TeX", "output/HTML-CSS"],
  tex2jax: {{inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], displayMath: [["$$", "$$"], ["\\\\[", "\\\\]"]],
            processEscapes: true, processEnvironments: true}},
  "HTML-CSS": {{availableFonts: [], webFont: "STIX-Web", imageFont: null, matchFontHeight: false, scale: 106,
               undefinedFamily: "'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif",
               styles: {{"@font-face": {{"font-family": "MathJax_Blank", src: "local('MathJax_Blank')"}}}}}},
  showMathMenu: false, messageStyle: "none"
}});
</script>
<script async src="../mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"></script>
</head>
<body>
<nav>{navigation}</nav>
<main>
{body}
</main>
<nav>{navigation}</nav>
</body>
</html>
"""

START = """\
<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<nav>{navigation}</nav>
<main>
<h1>{title}</h1>
<p>{text}</p>
{parts}
</main>
</body>
</html>
"""
PART = """\
<h2>{title}</h2>
<table>
<thead><tr><th>{lesson}</th><th>{minutes}</th><th>{needs}</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
"""

START_PAGE = {"en": "index.html", "zh": "index.zh.html"}
SWITCH = {"en": "English", "zh": "中文"}
WORDS = {
    "en": {
        "start": "All lessons",
        "text": "The lessons and their results, for reading without a network. Minutes are those of a whole run on two "
        "CPU cores; the README says how to run them yourself.",
        "lesson": "Lesson",
        "minutes": "Minutes",
        "needs": "Builds on",
        "comma": ", ",
        "figure": "Figure; the text below it describes it",
    },
    "zh": {
        "start": "全部课程",
        "text": "各课的内容和运行结果，没有网络也能阅读。分钟数指在双核 CPU 上完整运行一课的时间；"
        "怎样自己运行，见 README。",
        "lesson": "课程",
        "minutes": "分钟",
        "needs": "先修",
        "comma": "、",
        "figure": "图，其下文字有说明",
    },
}

CJK_FONTS = '"Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei"'
STYLE = f"""\
:root {{ color-scheme: light dark; --text: #222; --page: #fff; --link: #0b5394; --code: #f5f6f8; --bar: #b8c4d6;
        --line: #ddd; --card: #fdf8ee; }}
body {{ max-width: 46rem; margin: 0 auto; padding: 1rem; color: var(--text); background: var(--page); line-height: 1.6;
       font-family: "Helvetica Neue", Arial, "Noto Sans", {CJK_FONTS}, sans-serif; }}
html:lang(zh) body {{ font-family: {CJK_FONTS}, sans-serif; line-height: 1.75; }}
h1, h2, h3, h4 {{ line-height: 1.25; margin: 1.8em 0 0.6em; }}
h1 {{ font-size: 1.9rem; margin-top: 0.8em; }}
a {{ color: var(--link); }}
a.anchor-link {{ visibility: hidden; margin-left: 0.3em; text-decoration: none; font-weight: normal; }}
:hover > a.anchor-link {{ visibility: visible; }}
nav {{ display: flex; flex-wrap: wrap; gap: 0.2rem 1.5rem; font-size: 0.9rem; padding: 0.4rem 0; }}
img, svg {{ max-width: 100%; height: auto; }}
pre, code {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, {CJK_FONTS}, monospace; font-size: 0.84rem; }}
.code_cell {{ margin-right: calc(-1 * max(0rem, min(12rem, (100vw - 50rem) / 2))); }}
.output_area {{ margin-right: max(0rem, min(12rem, (100vw - 50rem) / 2)); }}
pre {{ margin: 0; padding: 0.7rem 0.9rem; line-height: 1.45; overflow-x: auto; }}
.highlight pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.highlight {{ background: var(--code); border-left: 3px solid var(--bar); margin: 1rem 0 0.4rem; }}
:not(pre) > code {{ background: var(--code); padding: 0.1em 0.3em; border-radius: 3px; overflow-wrap: anywhere; }}
.output_area {{ overflow-x: auto; margin-bottom: 0.4rem; }}
.output_text pre {{ padding-left: calc(0.9rem + 3px); }}
.output_png, .output_svg {{ text-align: center; }}
blockquote {{ margin: 1.4rem 0; padding: 0.1rem 1rem; border-left: 4px solid #e69f00; background: var(--card); }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: 0.93rem; display: block; overflow-x: auto; }}
th, td {{ padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: left; }}
.MathJax_Display {{ overflow-x: auto; overflow-y: hidden; padding: 0.2rem 0; }}
/* Formulas for screen readers, which nobody sees: MathJax would have them in fonts that are not beside the pages. */
.MJX_Assistive_MathML * {{ font-family: inherit !important; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #dcdcdc; --page: #181a1d; --link: #8ab8ee; --code: #22252a; --bar: #4a5a70; --line: #3a3d42;
          --card: #2b2619; }}
  img, svg {{ background: #fff; }}
}}
@media print {{ nav, a.anchor-link {{ display: none; }} }}
"""


def copy_mathjax(folder):
    """Copies the parts of MathJax that the pages use, and its licence."""
    for part in MATHJAX_PARTS:
        source, target = MATHJAX / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def exporter():
    """An exporter that gives the cells' HTML alone: no prompts, no page around it, no widgets, no scripts."""
    settings = Config({"NbConvertBase": {"display_data_priority": SHOWN}})
    return HTMLExporter(
        config=settings, template_name="basic", embed_images=True,
        exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip


def offline_link(target, notebook, page):
    """Where a notebook's link leads from its page: to a lesson's page, or to another file where it is."""
    path, mark, anchor = target.partition("#")
    if re.fullmatch(r"(\.\./(en|zh)/)?[^/:]+\.ipynb", path):
        return path.removesuffix(".ipynb") + ".html" + mark + anchor
    if path and not re.match(r"[a-z][a-z+.-]*:|//", path, re.I) and (notebook.parent / path).exists():
        return Path(os.path.relpath(notebook.parent / path, page.parent)).as_posix() + mark + anchor
    return target


def render(notebook, page, language, navigation):
    """Writes the page of one lesson in one language."""
    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)
    content.cells = [cell for cell in content.cells if cell.get("id") != "colab"]  # of no use to a reader
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    body, _ = exporter().from_notebook_node(content, {"metadata": {"path": str(notebook.parent)}})
    soup = BeautifulSoup(body, "html.parser")
    for link in soup.select("a[href]"):
        link["href"] = offline_link(link["href"], notebook, page)
    for image in soup.select('img[alt="No description has been provided for this image"]'):
        image["alt"] = WORDS[language]["figure"]
    heading = soup.find("h1")
    title = heading.get_text().removesuffix("¶") if heading else notebook.stem
    page.parent.mkdir(parents=True, exist_ok=True)
    text = PAGE.format(language=language, title=html.escape(title), navigation=navigation, body=soup)
    page.write_text(text, encoding="utf-8")


def remote_references(page):
    """Everything in a page that a browser would fetch from the network by itself; links to follow are not."""
    found = []
    for element in BeautifulSoup(page, "html.parser").find_all(True):
        followed = element.name in ("a", "area")
        names = ("src", "srcset", "data", "poster", "xlink:href") + (() if followed else ("href",))
        found += [element[name] for name in names if name in element.attrs]
        css = element.get("style", "") + (element.text if element.name == "style" else "")
        found += re.findall(r"url\([^)]*\)|@import[^;]*", css)
        if element.name == "script":
            found += re.findall(r"https?://[^\s'\"]*", element.text)
    return [f for f in found if re.search(r"https?://|^(url\(|@import|\s|['\"(])*//", f)]


def links(pairs):
    """Links for a page's navigation from (address, text); a text in another language is marked as such."""
    marks = {text: f' lang="{language}"' for language, text in SWITCH.items()}
    return "".join(f'<a href="{href}"{marks.get(text, "")}>{html.escape(text)}</a>' for href, text in pairs)


def start_page(language, root):
    """The start page in one language: the lessons by part, each with its minutes and what it builds on."""
    settings, words, other = config(root), WORDS[language], {"en": "zh", "zh": "en"}[language]
    known = {lesson.id: lesson for lesson in lessons(root, planned=True)}
    written = {lesson.id for lesson in lessons(root) if lesson.notebook(language, root).exists()}

    def name(lesson_id, text):
        return f'<a href="{language}/{known[lesson_id].name}.html">{text}</a>' if lesson_id in written else text

    def row(lesson):
        minutes = "" if lesson.minutes is None else max(1, round(lesson.minutes))
        title = name(lesson.id, f"{lesson.id} {html.escape(lesson.title[language])}")
        needs = words["comma"].join(name(needed, needed) for needed in lesson.needs)
        return f"<tr><td>{title}</td><td>{minutes}</td><td>{needs}</td></tr>"

    parts = []
    for part, title in settings["parts"].items():
        if rows := [row(known[i]) for i in sorted(written) if known[i].part == part]:
            parts.append(PART.format(title=html.escape(title[language]), rows="\n".join(rows), **words))
    title = html.escape(settings["title"][language])
    switch = links([(START_PAGE[other], SWITCH[other])])
    return START.format(language=language, title=title, navigation=switch, text=words["text"], parts="".join(parts))


def build(root=ROOT, out=None):
    """Renders every lesson of both editions and the start pages; returns problems, one line each."""
    out = Path(out or Path(root) / "build" / "html")
    listed, problems = lessons(root), []
    for language in ("en", "zh"):
        shutil.rmtree(out / language, ignore_errors=True)
    copy_mathjax(out / "mathjax")
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    code = f"@media not all and (prefers-color-scheme: dark) {{\n{light}\n}}\n"
    code += f"@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    (out / "style.css").write_text(code + STYLE, encoding="utf-8")
    for language in ("en", "zh"):
        other = "zh" if language == "en" else "en"
        written = [lesson for lesson in listed if lesson.notebook(language, root).exists()]
        for k, lesson in enumerate(written):
            leads = [(f"../{START_PAGE[language]}", WORDS[language]["start"])]
            if lesson.notebook(other, root).exists():
                leads.append((f"../{other}/{lesson.name}.html", SWITCH[other]))
            leads += [(f"{n.name}.html", f"← {n.title[language]}") for n in written[max(0, k - 1) : k]]
            leads += [(f"{n.name}.html", f"{n.title[language]} →") for n in written[k + 1 : k + 2]]
            page = out / language / f"{lesson.name}.html"
            render(lesson.notebook(language, root), page, language, links(leads))
            remote = remote_references(page.read_text(encoding="utf-8"))
            problems += [f"{language}/{page.name} would fetch {what[:100]}" for what in remote]
        (out / START_PAGE[language]).write_text(start_page(language, root), encoding="utf-8")
    return problems


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    root = parser.parse_args(arguments).root
    problems = build(root)
    print("\n".join([*problems, f"open {root / 'build' / 'html' / 'index.html'}"]))
    return int(bool(problems))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # a Windows console may not know Chinese
    sys.exit(main())
