"""What lesson 23 measures generated images with, against independent references, and the classifier that ships."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from aigc_course import data
from aigc_course.data import fashion_mnist, stored_results
from aigc_course.files import DamagedFile
from aigc_course.image_metrics import (
    class_entropy,
    features_of,
    fid,
    frechet_distance,
    gaussian_of,
    neighbour_radius,
    precision_recall,
    score_images,
)
from aigc_course.models import classifier as module
from aigc_course.models.classifier import ImageClassifier, fashion_classifier, share_recognised
from aigc_course.paths import DATA


def random_gaussian(d, g, rank=None):
    matrix = torch.randn(d, rank or 2 * d, generator=g, dtype=torch.float64)
    return torch.randn(d, generator=g, dtype=torch.float64), matrix @ matrix.T / d


@pytest.mark.parametrize("d", [1, 3, 20])
def test_frechet_distance_equals_the_formula_with_a_matrix_root(d):
    g = torch.Generator().manual_seed(d)
    for _ in range(5):
        (mean_a, a), (mean_b, b) = random_gaussian(d, g), random_gaussian(d, g)
        root = scipy.linalg.sqrtm((a @ b).numpy())
        expected = (mean_a - mean_b).square().sum() + a.trace() + b.trace() - 2 * np.trace(root).real
        assert frechet_distance(mean_a, a, mean_b, b) == pytest.approx(expected.item(), rel=1e-8)
        assert frechet_distance(mean_b, b, mean_a, a) == pytest.approx(expected.item(), rel=1e-8)
        assert frechet_distance(mean_a, a, mean_a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_in_one_dimension_and_of_diagonals_is_known():
    one = lambda x: torch.tensor([x], dtype=torch.float64)
    assert frechet_distance(one(1.0), one(4.0)[None], one(3.0), one(9.0)[None]) == pytest.approx(4 + 1)
    a, b = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 1.0, 0.0]).double()
    zero = torch.zeros(3).double()
    assert frechet_distance(zero, a.diag(), zero, b.diag()) == pytest.approx(4 + 1)  # (1 - 3)^2 + (2 - 1)^2


def test_frechet_distance_is_finite_where_covariances_are_singular():
    g = torch.Generator().manual_seed(0)
    (mean_a, a), (mean_b, b) = random_gaussian(12, g, rank=3), random_gaussian(12, g, rank=4)
    tiny = 1e-9 * torch.eye(12, dtype=torch.float64)
    distance = frechet_distance(mean_a, a, mean_b, b)
    assert math.isfinite(distance)
    assert distance == pytest.approx(frechet_distance(mean_a, a + tiny, mean_b, b + tiny), rel=1e-3)


class Pixels(nn.Module):
    """An extractor for torchmetrics: eight numbers of an image."""

    num_features = 8

    def features(self, x):
        return x.flatten(1)[:, :8].double() * torch.arange(1, 9)

    forward = features


def test_fid_equals_torchmetrics_with_the_same_features():
    g = torch.Generator().manual_seed(0)
    real, made = torch.rand(300, 1, 4, 4, generator=g), torch.rand(400, 1, 4, 4, generator=g) ** 2
    library = FrechetInceptionDistance(feature=Pixels(), normalize=True)
    for images, kind in ((real, True), (made, False)):
        for part in images.split(128):
            library.update(part, real=kind)
    assert fid(Pixels().features(real), Pixels().features(made)) == pytest.approx(library.compute().item(), rel=1e-5)


def test_fid_refuses_sets_that_are_too_small():
    with pytest.raises(ValueError, match="8 rows are too few"):
        fid(torch.randn(50, 8), torch.randn(8, 8))


def test_gaussian_of_is_numpys():
    features = torch.randn(40, 5)
    mean, covariance = gaussian_of(features)
    assert np.allclose(mean, features.double().numpy().mean(0))
    assert np.allclose(covariance, np.cov(features.double().numpy(), rowvar=False))


def by_loops(real, generated, k):
    """Precision by its definition, a point at a time."""

    def radius(features, i):
        return sorted((features[i] - other).norm().item() for j, other in enumerate(features) if j != i)[k - 1]

    radii = [radius(real, i) for i in range(len(real))]
    inside = [any((x - y).norm().item() <= r for y, r in zip(real, radii)) for x in generated]
    return sum(inside) / len(inside)


def test_precision_and_recall_follow_their_definition():
    g = torch.Generator().manual_seed(0)
    real, generated = torch.randn(40, 3, generator=g), 0.3 + 0.7 * torch.randn(50, 3, generator=g)
    for k in (1, 3):
        precision, recall = precision_recall(real, generated, k)
        assert precision == pytest.approx(by_loops(real, generated, k))
        assert recall == pytest.approx(by_loops(generated, real, k))


def test_precision_and_recall_tell_bad_points_from_missing_kinds():
    g = torch.Generator().manual_seed(0)
    real = torch.randn(2000, 2, generator=g) + torch.tensor([8.0, 0.0]) * (torch.arange(2000) % 2)[:, None]
    half = torch.randn(2000, 2, generator=g)  # only the left heap
    precision, recall = precision_recall(real, half)
    assert precision > 0.9 and 0.4 < recall < 0.6
    scattered = 12 * torch.rand(2000, 2, generator=g) - 2
    precision, recall = precision_recall(real, scattered)
    assert precision < 0.7 and recall > 0.9
    assert precision_recall(real, real) == (1.0, 1.0)


def test_radius_leaves_the_point_itself_out():
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert neighbour_radius(line, 1).tolist() == [1, 1, 2, 4] and neighbour_radius(line, 2).tolist() == [3, 2, 3, 6]


def test_class_entropy():
    assert class_entropy(torch.arange(1000) % 10) == pytest.approx(math.log(10))
    assert class_entropy(torch.zeros(50, dtype=torch.long)) == 0
    assert class_entropy(torch.tensor([0, 1, 1, 1]), 2) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


def test_the_shipped_classifier_is_as_good_as_its_card_says():
    model, (images, labels) = fashion_classifier(), fashion_mnist("test")
    card = (module.FASHION_CLASSIFIER / "README.md").read_text(encoding="utf-8")
    stated = float(card.split("accuracy on the 10,000 test images | ")[1].split(" ")[0])
    assert stated >= 0.92 and not model.training
    found = share_recognised(model, images[:2000], labels[:2000])
    assert abs(found - stated) < 0.02  # a fifth of them: standard error 0.006


def test_features_do_not_depend_on_the_batch_and_lead_to_the_logits():
    model, images = fashion_classifier(), fashion_mnist("test")[0][:70].unsqueeze(1) / 255
    features, classes = features_of(model, images)
    again, _ = features_of(model, images, batch_size=9)
    assert features.shape == (70, model.head.in_features)
    assert torch.allclose(features, again, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(model(images).argmax(1), classes)


def test_real_images_score_well_and_turned_ones_do_not():
    model, images = fashion_classifier(), fashion_mnist("test")[0].unsqueeze(1) / 255
    floor = score_images(model, images[:1500], images[1500:3000])
    turned = score_images(model, images[:1500], images[1500:3000].mT)
    assert floor["fid"] < turned["fid"] / 10 and floor["precision"] > 0.8 and floor["recall"] > 0.8
    assert floor["entropy"] > 2.25
    assert turned["recall"] < floor["recall"] and turned["precision"] < floor["precision"]


def test_a_damaged_classifier_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "fashion_classifier"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((module.FASHION_CLASSIFIER / "config.json").read_bytes())
    (folder / "model.safetensors").write_bytes(b"cut")
    (tmp_path / "SHA256SUMS").write_bytes((DATA / "SHA256SUMS").read_bytes())
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(DamagedFile, match="model.safetensors is damaged.*git checkout"):
        fashion_classifier()


def test_any_width_has_the_shapes_that_it_says():
    model = ImageClassifier(width=4, features=9, num_classes=3).eval()
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 3)
    assert model.features(torch.rand(2, 1, 28, 28)).shape == (2, 9)


def test_stored_games_are_complete():
    results = stored_results("dcgan")
    assert results["made_by"]["command"].startswith("python -m aigc_course.recipes.dcgan --seeds 0 1 2")
    games = results["games"]
    keys = [(game["way"], game["seed"]) for game in games]
    assert len(keys) == len(set(keys)) and {seed for _, seed in keys} == {0, 1, 2}
    assert len(keys) == 9 and {way for way, _ in keys} == {"perceptron", "first try", "DCGAN"}
    for row in [results["floor"], *games]:
        assert 0 < row["precision"] <= 1 and 0 <= row["recall"] <= 1 and 0 < row["entropy"] <= math.log(10)
        assert row["fid"] >= results["floor"]["fid"]
