"""Keeps the two editions of the course in step.

    python tools/editions.py sync  [21 ...]             code, outputs, tags and order: English to Chinese
    python tools/editions.py check [21 ...]             exits 1 where the editions differ or Chinese is stale
    python tools/editions.py accept 21 [--cells intro]  stamps Chinese cells that somebody has (re)read

`notebooks/en` is written first. `notebooks/zh` has the same cells by id; only Markdown differs. A Chinese
Markdown cell carries in its metadata `english`, a short hash of the English text it was written from, and
`untranslated` while it waits for a translation. To translate a cell, or to bring a stale one up to date: edit
the Chinese text, then `accept` it. `sync` clears no mark and changes no text that somebody has written.
"""

import argparse
import copy
import csv
import difflib
import hashlib
import re
import subprocess
import sys
from pathlib import Path

from nbformat import v4

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("title", "colab")  # written by generated_cells.py in both languages, so never translated by hand
MARKS = ("english", "untranslated")

CJK = re.compile(r"[\u4e00-\u9fff]")
HEADING = re.compile(r"^(#{1,6})\s", re.M)
EQUATION = re.compile(r"\\tag\{([^}]*)\}")
NOT_PROSE = re.compile(r"\$\$.*?\$\$|`[^`]*`|\$[^$]*\$|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|<[^>]*>|https?://\S+", re.S)
DISPLAY = re.compile(r"\$\$(.*?)\$\$", re.S)


# ---- notebooks on disk


def notebook_path(root, language, name):
    return Path(root) / "notebooks" / language / f"{name}.ipynb"


def read(path):
    return v4.reads(Path(path).read_text(encoding="utf-8"))


def write_if_changed(path, notebook):
    """Writes as nbformat does, with a newline at the end; returns whether the file changed."""
    path, text = Path(path), v4.writes(notebook) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    return True


def chosen(root, wanted):
    """Names such as `21_vae` of the English lessons, all of them or those asked for by `21` or `21_vae`."""
    names = sorted(p.stem for p in (Path(root) / "notebooks" / "en").glob("*.ipynb"))
    for w in wanted:
        if not any(w in (name, name[:2]) for name in names):
            raise SystemExit(f"there is no lesson {w} in notebooks/en")
    return [name for name in names if not wanted or name in wanted or name[:2] in wanted]


def digest(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def without_marks(metadata):
    return {key: value for key, value in metadata.items() if key not in MARKS}


def is_prose(cell):
    return cell.cell_type == "markdown" and cell.id not in GENERATED


def is_untouched(cell):
    """A Chinese cell that still holds the English text which `sync` put there."""
    return "untranslated" in cell.metadata and cell.metadata.get("english") == digest(cell.source)


# ---- reading the text


def without_code(markdown):
    return re.sub(r"```.*?```", " ", markdown, flags=re.S)


def prose(markdown):
    """What is left to read once code, mathematics, images, targets of links, HTML and addresses are gone."""
    return NOT_PROSE.sub(" ", without_code(markdown))


def still_english(english, chinese):
    """True where English words ask for a translation and there are too few Chinese characters for one."""
    words = len(re.findall(r"[A-Za-z]{3,}", prose(english)))
    return words >= 4 and (chinese == english or len(CJK.findall(prose(chinese))) < words / 3)


def formulas(markdown):
    """Displayed formulas without what each language may set in its own way: spaces, words, full stops."""
    found = []
    for formula in DISPLAY.findall(without_code(markdown)):
        formula = re.sub(r"\\(text|textrm|textbf|textit|mbox|mathrm)\{[^{}]*\}", "", formula)
        formula = re.sub(r"\s|\\[,;:! ]|\\q?quad", "", formula)
        found.append(re.sub(r"[.,;。，；、]+(?=(\\tag\{[^}]*\})?$)", "", formula))
    return found


# ---- glossary


def split_brackets(term):
    """'dropout（随机失活）' gives 'dropout' and ['随机失活']; brackets of either width."""
    inside = re.findall(r"[(（]([^)）]*)[)）]", term)
    return re.sub(r"\s+", " ", re.sub(r"\s*[(（][^)）]*[)）]\s*", " ", term)).strip(), inside


def english_terms(entry):
    """'training / validation / test set' gives [['training set'], ['validation set'], ['test set']].

    What stands in brackets is a second form only where it is an abbreviation: 'variational autoencoder (VAE)'
    has two forms, 'chain rule (calculus)' has one.
    """
    parts = [split_brackets(part) for part in entry.split(" / ")]
    last = parts[-1][0].split()
    shared = f" {last[-1]}" if len(parts) > 1 and len(last) > 1 and " " not in parts[0][0] else ""
    terms = []
    for k, (outside, inside) in enumerate(parts):
        abbreviations = [i for i in inside if re.fullmatch(r"[A-Z][A-Za-z0-9-]*[A-Z]", i)]
        terms.append([outside + (shared if k < len(parts) - 1 else ""), *abbreviations])
    return terms


def squeezed(text):
    return re.sub(r"[\s*]", "", text).casefold()


def load_glossary(path):
    """List of (English form, its pattern, accepted Chinese forms), longest English form first."""
    accepted = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            english, chinese = english_terms(row["en"]), row["zh"].split(" / ")
            if len(english) != len(chinese):
                raise SystemExit(f"{path}: {row['en']!r} and {row['zh']!r} have different numbers of terms")
            for forms, translation in zip(english, chinese, strict=True):
                outside, inside = split_brackets(translation)
                for form in forms:
                    accepted.setdefault(form, []).extend([outside, *inside])
    terms = []
    for form in sorted(accepted, key=len, reverse=True):
        words = [re.escape(word) for word in re.split(r"[\s-]+", form)]
        words[-1] = f"{words[-1][:-1]}(?:y|ies)" if form.endswith("y") else f"{words[-1]}(?:s|es)?"
        pattern = r"\b" + r"[\s-]+".join(words) + r"\b"
        terms.append((form, re.compile(pattern, re.I), accepted[form]))
    return terms


def missing_terms(english, chinese, glossary):
    """(English form, accepted Chinese forms) for each glossary term that the Chinese text lacks."""
    english, chinese, missing = prose(english), squeezed(prose(chinese)), []
    for form, pattern, accepted in glossary:
        english, count = pattern.subn(" | ", english)  # taken out: 'cross-entropy' must not ask for 'entropy'
        if count and not any(squeezed(a) in chinese for a in accepted):
            missing.append((form, accepted))
    return missing


# ---- git


def git(root, *arguments):
    run = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, encoding="utf-8")
    return run.stdout


def older_english(root, name, hashes):
    """Searches the English notebook's history; returns {hash: text} for those that were ever committed."""
    path, found = f"notebooks/en/{name}.ipynb", {}
    try:
        commits = git(root, "log", "--full-history", "--format=%H", "--", path).split()
    except (OSError, subprocess.CalledProcessError):
        return found  # no git here, or not a repository
    for commit in commits:
        if found.keys() >= hashes:
            break
        try:
            cells = v4.reads(git(root, "show", f"{commit}:./{path}")).cells
        except (subprocess.CalledProcessError, ValueError):
            continue  # deleted in this commit, or broken
        found |= {digest(c.source): c.source for c in cells if digest(c.source) in hashes}
    return found


def difference(before, after, labels):
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *labels, lineterm="")
    return "\n".join(f"    {line}" for line in lines)


# ---- the three commands


def sync(root, name):
    """Brings one lesson's Chinese notebook in step with the English; returns lines that say what happened."""
    path, english = notebook_path(root, "zh", name), read(notebook_path(root, "en", name))
    ids = [cell.id for cell in english.cells]
    if len(set(ids)) != len(ids):
        raise SystemExit(f"{name}: the English edition has two cells of one id; nothing was written")
    old = {cell.id: cell for cell in read(path).cells} if path.exists() else {}
    chinese, said = copy.deepcopy(english), []
    for cell in chinese.cells:
        cell.metadata = type(cell.metadata)(without_marks(cell.metadata))
        before = old.get(cell.id)
        if cell.cell_type != "markdown":
            continue
        if before is not None and before.cell_type == "markdown":
            del old[cell.id]
            cell.metadata |= {key: before.metadata[key] for key in MARKS if key in before.metadata}
            if not is_untouched(before):
                cell.source = before.source
                continue
        elif is_prose(cell):
            said.append(f"new cell {cell.id}, untranslated")
        if is_prose(cell):
            cell.metadata |= {"english": digest(cell.source), "untranslated": True}
    for cell in old.values():
        if cell.cell_type == "markdown" and not is_untouched(cell):
            said.append(f"dropped cell {cell.id}, which English no longer has. Its text was:\n{cell.source}")
        elif cell.id not in ids:
            said.append(f"dropped cell {cell.id}, which English no longer has")
    return said + ["written"] if write_if_changed(path, chinese) else said


def check_cell(english, chinese):
    """What is wrong with one Chinese cell, apart from being stale."""
    if english.cell_type != chinese.cell_type:
        return [f"is {english.cell_type} in English and {chinese.cell_type} in Chinese"]
    problems = []
    if english.cell_type != "markdown" and english.source != chinese.source:
        changed = difference(english.source, chinese.source, ("English", "Chinese"))
        problems.append(f"holds other code in Chinese:\n{changed or '    (only line endings differ)'}")
    for key in ("outputs", "execution_count", "attachments"):
        if english.get(key) != chinese.get(key):
            problems.append(f"has another {key.replace('_', ' ')} in Chinese")
    a, b = without_marks(english.metadata), without_marks(chinese.metadata)
    if a != b:
        what = "metadata" if a.get("tags") == b.get("tags") else "tags"
        problems.append(f"has other {what} in Chinese: {a} and {b}")
    if not is_prose(english):
        return problems
    if "untranslated" in chinese.metadata:
        return [*problems, "is untranslated, or translated and not yet accepted"]
    if "english" not in chinese.metadata:
        problems.append("was never accepted")
    if still_english(english.source, chinese.source):
        problems.append("is still English")
    for what, parts in {
        "headings": lambda text: [len(h) for h in HEADING.findall(without_code(text))],
        "equation numbers": lambda text: EQUATION.findall(without_code(text)),
        "displayed formulas": formulas,
    }.items():
        here, there = parts(english.source), parts(chinese.source)
        if here != there:
            problems.append(f"has other {what} in Chinese: {here} and {there}")
    return problems


def check(root, name, glossary=()):
    """Returns (problems, warnings) of one lesson, each a list of texts."""
    path = notebook_path(root, "zh", name)
    if not path.exists():
        return ["has no Chinese edition; `sync` makes one"], []
    try:
        english, chinese = read(notebook_path(root, "en", name)), read(path)
        ids, zh_ids = [c.id for c in english.cells], [c.id for c in chinese.cells]
    except (ValueError, AttributeError, KeyError) as error:
        return [f"cannot be read, or has cells without id: {error!r}"], []
    problems, warnings = [], []
    for language, listing in (("English", ids), ("Chinese", zh_ids)):
        problems += [f"{language} has two cells {i}" for i in sorted(set(listing)) if listing.count(i) > 1]
    for key in ("metadata", "nbformat", "nbformat_minor"):
        if english[key] != chinese[key]:
            problems.append(f"the notebook's {key} differs between editions")
    problems += [f"cell {i} is missing in Chinese" for i in ids if i not in zh_ids]
    problems += [f"cell {i} is not in the English edition" for i in zh_ids if i not in ids]
    if [i for i in ids if i in zh_ids] != [i for i in zh_ids if i in ids]:
        problems.append("the cells stand in another order in Chinese")

    twins, stale = {c.id: c for c in chinese.cells}, []
    pairs = [(cell, twins[cell.id]) for cell in english.cells if cell.id in twins]
    for cell, twin in pairs:
        problems += [f"cell {cell.id} {problem}" for problem in check_cell(cell, twin)]
        if is_prose(cell) and not is_untouched(twin):
            if twin.metadata.get("english", digest(cell.source)) != digest(cell.source):
                stale.append((cell, twin))
            if "untranslated" not in twin.metadata:
                for form, accepted in missing_terms(cell.source, twin.source, glossary):
                    wanted = " or ".join(accepted)
                    warnings.append(f"cell {cell.id} says '{form}' in English and has no {wanted} in Chinese")
    texts = older_english(root, name, {twin.metadata["english"] for _, twin in stale}) if stale else {}
    for cell, twin in stale:
        before = texts.get(twin.metadata["english"])
        if before is None:
            shown = "    That English is not in git's history of the notebook: reread the whole cell."
        else:
            shown = difference(before, cell.source, ("English it was written from", "English now"))
        problems.append(f"cell {cell.id} is stale, its English has changed since:\n{shown}")
    return problems, warnings


def accept(root, name, cells=()):
    """Stamps Chinese cells with the English they match now; returns (ids stamped, ids refused as English)."""
    path = notebook_path(root, "zh", name)
    if not path.exists():
        raise SystemExit(f"{name} has no Chinese edition; `sync` makes one")
    english = {c.id: c for c in read(notebook_path(root, "en", name)).cells if is_prose(c)}
    chinese, stamped, refused = read(path), [], []
    twins = {c.id: c for c in chinese.cells if c.id in english and c.cell_type == "markdown"}
    for unknown in [i for i in cells if i not in twins]:
        raise SystemExit(f"{name} has no Markdown cell {unknown} to accept in both editions")
    for cell_id in cells or twins:
        source, twin = english[cell_id].source, twins[cell_id]
        if still_english(source, twin.source):
            refused.append(cell_id)
        elif {k: twin.metadata[k] for k in MARKS if k in twin.metadata} != {"english": digest(source)}:
            twin.metadata.pop("untranslated", None)
            twin.metadata["english"] = digest(source)
            stamped.append(cell_id)
    write_if_changed(path, chinese)
    return stamped, refused


def main(arguments=None):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("command", choices=("sync", "check", "accept"))
    parser.add_argument("lessons", nargs="*", metavar="lesson", help="21 or 21_vae; all if none is named")
    parser.add_argument("--cells", nargs="+", default=(), metavar="ID", help="accept only these cells")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    root, names = options.root, chosen(options.root, options.lessons)
    if options.command == "accept" and not options.lessons:
        parser.error("name the lessons that were read")
    if options.cells and (options.command != "accept" or len(names) != 1):
        parser.error("--cells goes with accept and one lesson")

    if options.command == "sync":
        for name in names:
            for line in sync(root, name):
                print(f"{name}: {line}")
        return 0
    if options.command == "accept":
        any_refused = False
        for name in names:
            stamped, refused = accept(root, name, options.cells)
            print(f"{name}: accepted {', '.join(stamped) or 'nothing new'}")
            if refused:
                any_refused = True
                print(f"{name}: refused, still English: {', '.join(refused)}")
        return int(any_refused)

    glossary = load_glossary(root / "docs" / "glossary.csv")
    failed = warned = 0
    for name in names:
        problems, warnings = check(root, name, glossary)
        failed, warned = failed + len(problems), warned + len(warnings)
        for line in problems + [f"warning: {w}" for w in warnings]:
            print(f"{name}: {line}")
    if not options.lessons:
        for path in sorted((root / "notebooks" / "zh").glob("*.ipynb")):
            if path.stem not in names:
                failed += 1
                print(f"{path.stem}: the Chinese edition has no English one")
    print(f"{len(names)} lessons, {failed} problems, {warned} warnings")
    return int(failed > 0)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # a Windows console may not know Chinese
    sys.exit(main())
