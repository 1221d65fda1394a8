"""One folder for a class with a bad network: `make bundle`, or `python tools/bundle.py windows 3.12`.

It holds a clone of the course and the wheels of everything that it installs, for one kind of machine and one version
of Python, and installs without a network. manage.py looks for the wheels beside the clone. Other machines than this
one can be named: packages are then picked by what they say of themselves, not by what pip finds here.
"""

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import manage  # noqa: E402
from aigc_course.course import config  # noqa: E402

PATCH = 99  # some packages want a Python that is not the very first of its line
LINUX = [f"manylinux_2_{n}" for n in range(28, 4, -1)] + ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
SOURCE_ONLY = {"seqeval"}  # pure Python, published without a wheel: we build it here, and it fits any machine
MACHINES = {  # name: (platforms of wheels, what environment markers see there)
    "linux": ([f"{tag}_x86_64" for tag in LINUX], ("linux", "Linux", "posix", "x86_64")),
    "linux-arm": ([f"{tag}_aarch64" for tag in LINUX], ("linux", "Linux", "posix", "aarch64")),
    "mac": (["macosx_14_0_arm64"], ("darwin", "Darwin", "posix", "arm64")),  # pip adds older systems
    "windows": (["win_amd64"], ("win32", "Windows", "nt", "AMD64")),
}
README = """\
# {title} without a network · 不联网安装

For **{machine}, Python {python}**. Copy this whole folder to your machine, open a terminal in it, and write:

    cd course
    python3 manage.py lab

On Windows the second line is `py -{python} manage.py lab`. It installs into `course/.venv` from the wheels in this \
folder, opens the lessons, and fetches nothing.

适用于 **{machine}，Python {python}**。把整个文件夹复制到自己的电脑，在其中打开终端，运行上面两行命令；\
Windows 上第二行改为 `py -{python} manage.py lab`。程序用本文件夹里的安装包\
安装到 `course/.venv`，然后打开课程，不用联网。
"""


def environment(machine, python):
    """What the environment markers of a requirement see on such a machine."""
    sys_platform, system, os_name, processor = MACHINES[machine][1]
    full = f"{python}.{PATCH}"
    return {
        "sys_platform": sys_platform, "platform_system": system, "os_name": os_name, "platform_machine": processor,
        "platform_release": "", "platform_version": "", "python_version": python, "python_full_version": full,
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "implementation_version": full,
    }  # fmt: skip


def requirements(wheel):
    """What a wheel needs, as its metadata says."""
    with zipfile.ZipFile(wheel) as file:
        name = next(n for n in file.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return Parser().parsestr(file.read(name).decode("utf-8")).get_all("Requires-Dist") or []


def project():
    """What the course itself needs: to run, and to be built."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["project"]["dependencies"] + settings["build-system"]["requires"]


def download(folder, machine, python, wanted):
    """Puts the wheels of all `wanted` into `folder`, and of what they need in turn, for that machine and Python."""
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
    fetch += ["--find-links", folder, "-c", ROOT / "constraints.txt", "--implementation", "cp"]
    fetch += ["--python-version", f"{python}.{PATCH}", *(f"--platform={tag}" for tag in MACHINES[machine][0])]
    index = manage.torch_index() if machine.startswith("linux") else None
    if index and any(Requirement(line).name == "torch" for line in wanted):  # the CPU build, as manage.py installs it
        subprocess.run([*fetch, "--index-url", index, "torch", "torchvision"], check=True)
    if sources := [line for line in wanted if Requirement(line).name in SOURCE_ONLY]:
        wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
        subprocess.run([*wheel, "-c", ROOT / "constraints.txt", *sources], check=True)
    there, seen = environment(machine, python), set()
    todo = [(Requirement(line), {""}) for line in wanted]
    while todo:
        needed = [r for r, extras in todo if applies(r, extras, there) and (r.name, str(r.extras)) not in seen]
        if needed:
            subprocess.run([*fetch, *(f"{r.name}{r.specifier}" for r in needed)], check=True)
        seen |= {(r.name, str(r.extras)) for r in needed}
        wheels = {canonicalize_name(wheel.name.split("-")[0]): wheel for wheel in Path(folder).glob("*.whl")}
        more = {r: requirements(wheels[canonicalize_name(r.name)]) for r in needed}
        todo = [(Requirement(line), {"", *r.extras}) for r, lines in more.items() for line in lines]


def applies(requirement, extras, there):
    """True if a wheel that is wanted with these extras has this requirement on a machine of this kind."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**there, "extra": extra}) for extra in extras)


def this_machine():
    """The name in MACHINES of the machine that this runs on."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return {"Windows": "windows", "Darwin": "mac"}.get(platform.system(), "linux-arm" if arm else "linux")


def build(machine, python, out=None, wanted=None, root=ROOT):
    """Makes the folder, anew; returns it. `wanted` takes the place of what the course needs (for tests)."""
    out = Path(out or root / "build" / "bundle")
    shutil.rmtree(out, ignore_errors=True)
    (out / manage.WHEELS.name).mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", Path(root).as_uri(), out / "course"], check=True)
    settings = config(root)
    address = ["remote", "set-url", "origin", settings["repository"]["url"]]
    subprocess.run(["git", "-C", out / "course", *address], check=True)
    title = settings["title"]["en"]
    (out / "README.md").write_text(README.format(title=title, machine=machine, python=python), encoding="utf-8")
    download(out / manage.WHEELS.name, machine, python, wanted or project())
    return out


def main(arguments=None):
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("machine", nargs="?", choices=MACHINES, default=this_machine(), help="the students' machines")
    parser.add_argument("python", nargs="?", default=here, help=f"their version of Python, else {here}")
    parser.add_argument("--folder", type=Path, help="another folder than build/bundle")
    options = parser.parse_args(arguments)
    out = build(options.machine, options.python, options.folder)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out} holds {size / 1e9:.1f} GB, for {options.machine} with Python {options.python}")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # a Windows console may not know Chinese
    sys.exit(main())
