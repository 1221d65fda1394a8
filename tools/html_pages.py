"""Renders both editions to build/html/ for reading offline: `make html`, or `python tools/html_pages.py`.

The pages load nothing from the network. Mathematics is set by MathJax 2.7, copied beside the pages from the
package jupyter-server-mathjax. (This file is not called html.py, for Python would then import it in place of
its own module `html`.)
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
               undefinedFamily: "'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif"}},
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

INDEX = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<main>
<h1>{title}<br><span lang="zh">{title_zh}</span></h1>
<table>
<thead><tr><th></th><th>English</th><th lang="zh">中文</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</main>
</body>
</html>
"""

CJK_FONTS = '"Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei"'
STYLE = f"""\
body {{ max-width: 46rem; margin: 0 auto; padding: 1rem; color: #222; background: #fff; line-height: 1.6;
       font-family: "Helvetica Neue", Arial, "Noto Sans", {CJK_FONTS}, sans-serif; }}
html:lang(zh) body {{ font-family: {CJK_FONTS}, sans-serif; line-height: 1.75; }}
h1, h2, h3, h4 {{ line-height: 1.25; margin: 1.8em 0 0.6em; }}
h1 {{ font-size: 1.9rem; margin-top: 0.8em; }}
a {{ color: #0b5394; }}
a.anchor-link {{ visibility: hidden; margin-left: 0.3em; text-decoration: none; font-weight: normal; }}
:hover > a.anchor-link {{ visibility: visible; }}
nav {{ display: flex; flex-wrap: wrap; gap: 0.2rem 1.5rem; font-size: 0.9rem; padding: 0.4rem 0; }}
img, svg {{ max-width: 100%; height: auto; }}
pre, code {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, {CJK_FONTS}, monospace; font-size: 0.84rem; }}
.code_cell {{ margin-right: calc(-1 * max(0rem, min(12rem, (100vw - 50rem) / 2))); }}
.output_area {{ margin-right: max(0rem, min(12rem, (100vw - 50rem) / 2)); }}
pre {{ margin: 0; padding: 0.7rem 0.9rem; line-height: 1.45; overflow-x: auto; }}
.highlight {{ background: #f5f6f8; border-left: 3px solid #b8c4d6; margin: 1rem 0 0.4rem; }}
:not(pre) > code {{ background: #f0f1f4; padding: 0.1em 0.3em; border-radius: 3px; }}
.output_area {{ overflow-x: auto; margin-bottom: 0.4rem; }}
.output_text pre {{ padding-left: calc(0.9rem + 3px); color: #333; }}
.output_png, .output_svg {{ text-align: center; }}
blockquote {{ margin: 1.4rem 0; padding: 0.1rem 1rem; border-left: 4px solid #e69f00; background: #fdf8ee; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: 0.93rem; display: block; overflow-x: auto; }}
th, td {{ padding: 0.3rem 0.8rem; border-bottom: 1px solid #ddd; text-align: left; }}
.MathJax_Display {{ overflow-x: auto; overflow-y: hidden; padding: 0.2rem 0; }}
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
    described = {"en": "Figure; the text below it describes it", "zh": "图，其下文字有说明"}[language]
    for image in soup.select('img[alt="No description has been provided for this image"]'):
        image["alt"] = described
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


def build(root=ROOT, out=None):
    """Renders every lesson of both editions and the index; returns problems, one line each."""
    out = Path(out or Path(root) / "build" / "html")
    listed, problems = lessons(root), []
    for language in ("en", "zh"):
        shutil.rmtree(out / language, ignore_errors=True)
    copy_mathjax(out / "mathjax")
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    (out / "style.css").write_text(f"{colours}\n{STYLE}", encoding="utf-8")
    contents, rows = {"en": "Contents", "zh": "目录"}, []
    for language in ("en", "zh"):
        other = "zh" if language == "en" else "en"
        written = [lesson for lesson in listed if lesson.notebook(language, root).exists()]
        for k, lesson in enumerate(written):
            links = [("../index.html", contents[language])]
            if lesson.notebook(other, root).exists():
                links.append((f"../{other}/{lesson.name}.html", {"en": "English", "zh": "中文"}[other]))
            links += [(f"{n.name}.html", f"← {n.title[language]}") for n in written[max(0, k - 1) : k]]
            links += [(f"{n.name}.html", f"{n.title[language]} →") for n in written[k + 1 : k + 2]]
            navigation = "".join(f'<a href="{href}">{html.escape(text)}</a>' for href, text in links)
            page = out / language / f"{lesson.name}.html"
            render(lesson.notebook(language, root), page, language, navigation)
            remote = remote_references(page.read_text(encoding="utf-8"))
            problems += [f"{language}/{page.name} would fetch {what[:100]}" for what in remote]
    for lesson in listed:
        cells = []
        for language in ("en", "zh"):
            title = html.escape(lesson.title[language])
            if lesson.notebook(language, root).exists():
                title = f'<a href="{language}/{lesson.name}.html">{title}</a>'
            cells.append(f'<td lang="{language}">{title}</td>')
        rows.append(f"<tr><td>{lesson.id}</td>{''.join(cells)}</tr>")
    title = {language: html.escape(text) for language, text in config(root)["title"].items()}
    index = INDEX.format(title=title["en"], title_zh=title["zh"], rows="\n".join(rows))
    (out / "index.html").write_text(index, encoding="utf-8")
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
