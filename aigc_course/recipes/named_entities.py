"""Lesson 17's names over several seeds: `python -m aigc_course.recipes.named_entities --seeds 0 1 2`.

Finds the names of the course's sentences by four means: a list of the training part's names, a logistic regression on
words and their shapes, BERT mini fine-tuned, and the same encoder from scratch. Learning rates and the strength of the
regression's penalty are chosen on the validation part, with a seed of their own. Writes data/results/
named_entities.json: the choices, and precision, recall and F1 of whole names on the test part, also by type and for
names unseen in training. A run that was killed goes on with the training that it was in.
"""

import argparse

import torch
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from aigc_course.ner import (
    NER_TYPES,
    PARTS,
    TokenClassifier,
    align,
    gazetteer,
    name_counts,
    ner_sentences,
    new_encoder,
    precision_recall_f1,
    predict_tags,
    surfaces,
    tags_from_list,
    train_tagger,
    word_features,
    words_and_tags,
)
from aigc_course.pretrained import load_encoder
from aigc_course.recipes.results import write_results
from aigc_course.runtime import pick_device, seed_everything

EPOCHS, SEARCH_SEED = 10, 100
RATES = {"BERT mini": (1e-4, 3e-4, 6e-4, 1.2e-3), "from scratch": (3e-4, 6e-4, 1.2e-3, 2.4e-3)}
STRENGTHS = (1.0, 10.0, 100.0)  # of the regression's weights: the inverse of the penalty on them


def corpus():
    """{part: (words, tags)}: a list for each sentence."""
    return {part: tuple(zip(*(words_and_tags(*sentence) for sentence in ner_sentences(part)))) for part in PARTS}


def figures(parts, part, said):
    """Precision, recall and F1 of all names, of each type, and of names (un)seen in training, as a dict."""
    words, truth = parts[part]
    known = surfaces(*parts["train"])
    seen = lambda i, start, end: tuple(word.lower() for word in words[i][start:end]) in known
    counts = name_counts(truth, said)
    kinds = {
        "seen names": name_counts(truth, said, seen).sum((0, 1)),
        "unseen names": name_counts(truth, said, lambda *place: not seen(*place)).sum((0, 1)),
        **dict(zip(NER_TYPES, counts.sum(0))),
    }
    row = dict(zip(("precision", "recall", "F1"), precision_recall_f1(counts.sum((0, 1))).tolist()))
    return row | {name: precision_recall_f1(of)[2].item() for name, of in kinds.items()}


def regression(parts, strength):
    """A function from sentences, lists of words, to their tags: logistic regression on `word_features`."""
    vectorizer = DictVectorizer()
    features = vectorizer.fit_transform([row for words in parts["train"][0] for row in word_features(words)])
    model = LogisticRegression(C=strength, max_iter=500, tol=1e-3)
    model.fit(features, [tag for tags in parts["train"][1] for tag in tags])
    return lambda sentences: [model.predict(vectorizer.transform(word_features(s))).tolist() for s in sentences]


def tagger(system, parts, rows, tokenizer, encoder, *, epochs, rate, seed):
    """(F1 on validation, tags of the test part) of an encoder that was fine-tuned, or trained from scratch."""
    seed_everything(seed)
    start = new_encoder(encoder)
    if system == "BERT mini":
        start.load_state_dict(encoder.state_dict())
    model = TokenClassifier(start).to(pick_device())
    history = train_tagger(
        model, rows["train"], rows["validation"], epochs=epochs, rate=rate, seed=seed, pad=tokenizer.pad_token_id,
        checkpoint=f"named_entities_{system.replace(' ', '_')}_{seed}_{rate:g}", checkpoint_every=100,
    )  # fmt: skip
    best = 1 - min(score for _, score in history.evaluations)
    return best, predict_tags(model, rows["test"], tokenizer.pad_token_id)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--model", default="bert_mini", help="as for aigc_course.pretrained.load_encoder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    parts = corpus()
    pretrained, tokenizer = load_encoder(options.model)
    encoder = pretrained.base_model
    rows = {part: [align(*pair, tokenizer) for pair in zip(*parts[part])] for part in PARTS}
    train_and_score = lambda system, rate, seed: tagger(
        system, parts, rows, tokenizer, encoder, epochs=options.epochs, rate=rate, seed=seed
    )
    results = {"epochs": options.epochs, "choice": {}, "systems": {}}

    names = gazetteer(*parts["train"])
    said = [tags_from_list(words, names) for words in parts["test"][0]]
    results["systems"]["list of names"] = [figures(parts, "test", said)]

    taggers = {strength: regression(parts, strength) for strength in STRENGTHS}
    tried = {c: figures(parts, "validation", tag(parts["validation"][0]))["F1"] for c, tag in taggers.items()}
    best = max(tried, key=tried.get)
    results["choice"]["word shapes"] = {"tried": {str(c): f1 for c, f1 in tried.items()}, "best": best}
    results["systems"]["word shapes"] = [figures(parts, "test", taggers[best](parts["test"][0]))]
    print(results, flush=True)

    for system, rates in RATES.items():
        tried = {rate: train_and_score(system, rate, SEARCH_SEED)[0] for rate in rates}
        best = max(tried, key=tried.get)
        results["choice"][system] = {"tried": {str(rate): f1 for rate, f1 in tried.items()}, "best": best}
        print(system, results["choice"][system], flush=True)
        results["systems"][system] = []
        for seed in options.seeds:
            validation, said = train_and_score(system, best, seed)
            row = {"seed": seed, "validation F1": validation} | figures(parts, "test", said)
            results["systems"][system].append(row)
            print(system, row, flush=True)
    write_results("named_entities", results)


if __name__ == "__main__":
    main()
