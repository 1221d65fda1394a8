"""Files that can be trusted: checked by SHA-256 when read, never half written."""

import hashlib
import os
import uuid
from pathlib import Path


class DamagedFile(Exception):
    """A file is not what it was when it was published; the text says which, and what to do."""


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(path):
    """{file name: SHA-256} from a list as `sha256sum` writes it."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return {name.strip(): digest for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())}


def verify(path, expected, remedy):
    """Raises DamagedFile, with `remedy` as the advice, unless the file has the SHA-256 `expected`."""
    path = Path(path)
    if not path.is_file():
        raise DamagedFile(f"{path} is missing. {remedy}")
    found = sha256(path)
    if found != expected:
        raise DamagedFile(
            f"{path} is damaged: it has {path.stat().st_size} bytes and SHA-256 {found}, expected {expected}. {remedy}"
        )


def write_atomically(path, content):
    """Writes bytes so that `path` holds either all of them or what it held before, even if the machine stops.

    Several processes may write the same path at once: each uses a temporary name of its own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # readable by others, which mkstemp's is not
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
