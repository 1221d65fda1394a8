"""Pretrained language models: those that ship with the course, and the published ones where there is a network."""

import functools
import random
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import get_session
from transformers import AutoModelForCausalLM, AutoModelForPreTraining, AutoTokenizer

from aigc_course.data import movie_reviews, published_sum
from aigc_course.files import read_sums, verify
from aigc_course.paths import DATA
from aigc_course.runtime import quiet

MODELS = DATA / "models"
SHIPPED = ("gpt2_mini", "bert_mini")  # language models that come with the course
VALIDATION_REVIEWS = 1000


@functools.cache
def pretraining_reviews(split):
    """The distinct IMDB reviews that the course's models were pretrained on, as a list of texts.

    split: "train", or "validation" for 1,000 that no pretraining has seen. Line breaks are "\\n". Two reviews that
    begin with the same 100 letters count as one, so that no review stands in both parts.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split must be 'train' or 'validation', not {split!r}")
    distinct = {}
    for text, _ in movie_reviews("imdb"):
        text = plain(text)
        distinct.setdefault(re.sub("[^a-z]", "", text.lower())[:100], text)
    texts = list(distinct.values())
    random.Random(0).shuffle(texts)
    return texts[:VALIDATION_REVIEWS] if split == "validation" else texts[VALIDATION_REVIEWS:]


def plain(text):
    """A review with its HTML breaks as line breaks."""
    return re.sub(r"(\s*<br />\s*)+", "\n", text).strip()


def load_language_model(name="gpt2_mini"):
    """(model, tokenizer) of a causal language model, in evaluation mode and float32.

    name: "gpt2_mini", which ships with the course, or a published model such as "gpt2" or a folder of yours.
    Raises DamagedFile when a shipped file is cut or altered, OSError when a published model cannot be had.
    """
    return load(AutoModelForCausalLM, name)


def load_encoder(name="bert_mini"):
    """(model, tokenizer) of a BERT with both pretraining heads, in evaluation mode and float32.

    name: "bert_mini", which ships with the course, or a published model such as "bert-base-cased" or a folder of yours.
    Raises DamagedFile when a shipped file is cut or altered, OSError when a published model cannot be had.
    """
    return load(AutoModelForPreTraining, name)


def load(auto_class, name):
    """A model by `auto_class`, and its tokenizer; without loading bars, and without waiting for a network that is not
    there."""
    quiet()
    if name in SHIPPED:
        published_sum(f"models/{name}/config.json")  # else a list of sums that is cut would hide that it ships
    files = [file for file in read_sums(DATA / "SHA256SUMS") if file.startswith(f"models/{name}/")]
    for file in files:
        verify(DATA / file, published_sum(file), f"In the course's folder run `git checkout -- data/{file}`.")
    where = MODELS / name if files else name
    try:
        if not Path(where).is_dir() and not hub_answers():
            where = snapshot_download(name, local_files_only=True)  # what an earlier visit has left on the disk
        return auto_class.from_pretrained(where, dtype="float32").eval(), AutoTokenizer.from_pretrained(where)
    except (OSError, HFValidationError) as error:
        raise OSError(
            f"The model {str(name)!r} neither ships with the course nor is on this computer, and it could not be "
            "fetched from huggingface.co. Connect to the network once, or use a model that ships with the course: "
            f"{' or '.join(SHIPPED)}."
        ) from error


def hub_answers(seconds=4):
    """Whether huggingface.co, or the mirror that HF_ENDPOINT names, answers at all; asked once, not again and again."""
    try:
        get_session().head(ENDPOINT, timeout=seconds)
    except Exception:  # each HTTP library has its own
        return False
    return True
