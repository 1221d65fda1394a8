"""How close generated images are to real ones, measured in the feature space of a network (lesson 23).

Features are `(N, d)`, one row an image. No figure means much alone: put beside it what real images score against other
real images, the floor.
"""

import torch


@torch.no_grad()
def features_of(model, images, batch_size=1000):
    """(features, predicted classes) of images `(N, 1, H, W)` in [0, 1] by a classifier: `(N, d)` and `(N,)`.

    model: has `features(x)`, `(B, d)`, and `head`, which makes logits of them. Both results are on the CPU.
    """
    device, rows, classes = next(model.parameters()).device, [], []
    for x in images.split(batch_size):
        rows.append(model.features(x.to(device)))
        classes.append(model.head(rows[-1]).argmax(dim=1))
    return torch.cat(rows).cpu(), torch.cat(classes).cpu()


def gaussian_of(features):
    """(mean `(d,)`, covariance `(d, d)`) of features `(N, d)`, in float64."""
    features = features.double()
    return features.mean(dim=0), features.T.cov()


def frechet_distance(mean_a, covariance_a, mean_b, covariance_b):
    """Frechet distance of two Gaussians, squared as is customary (Dowson and Landau, 1982): a number.

    The trace of the root of the product of the covariances is the sum of the roots of the eigenvalues of
    A covariance_b A, with A the symmetric root of covariance_a. That matrix is symmetric, so that the eigenvalues are
    real even where a covariance is singular, as it is when a feature never fires.
    """
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * shared
    return distance.clamp(min=0).item()


def fid(real, generated):
    """Frechet distance of the Gaussians fitted to two sets of features (Heusel et al., 2017, arXiv:1706.08500).

    "Inception" in its name is the network that published figures were measured with; figures from other features do
    not compare with those. Raises ValueError where a set has fewer rows than columns: its covariance says nothing.
    """
    for features in (real, generated):
        if len(features) <= features.shape[1]:
            raise ValueError(f"{len(features)} rows are too few to fit a Gaussian to {features.shape[1]} features")
    return frechet_distance(*gaussian_of(real), *gaussian_of(generated))


def neighbour_radius(features, k=3):
    """Distance of each row to its k-th nearest other row, `(N,)`."""
    return torch.cat([torch.cdist(rows, features).kthvalue(k + 1, dim=1).values for rows in features.split(1000)])


def share_inside(points, features, radius):
    """Share of the rows of `points` that lie within `radius` `(N,)` of at least one of the rows of `features`."""
    inside = [(torch.cdist(rows, features) <= radius).any(dim=1) for rows in points.split(1000)]
    return torch.cat(inside).float().mean().item()


def precision_recall(real, generated, k=3):
    """(precision, recall) by nearest neighbours (Kynkaanniemi et al., 2019, arXiv:1904.06991).

    precision: share of the generated images that lie as near to a real one as its k-th real neighbour does. recall:
    the same with the roles exchanged, the share of real images that the generated ones reach. Both grow with the number
    of rows: compare sets of one size only.
    """
    real, generated = real.float(), generated.float()
    precision = share_inside(generated, real, neighbour_radius(real, k))
    return precision, share_inside(real, generated, neighbour_radius(generated, k))


def class_entropy(classes, num_classes=10):
    """Entropy in nats of how often each class was predicted; log(num_classes) if all are equally frequent."""
    shares = torch.bincount(classes, minlength=num_classes).double() / len(classes)
    return abs(torch.special.xlogy(shares, shares).sum().item())


def score_images(model, real, generated):
    """{"fid", "precision", "recall", "entropy"} of generated images beside real ones, both `(N, 1, H, W)` in [0, 1]."""
    real_features, _ = features_of(model, real)
    features, classes = features_of(model, generated)
    precision, recall = precision_recall(real_features, features)
    entropy = class_entropy(classes, model.head.out_features)
    return {"fid": fid(real_features, features), "precision": precision, "recall": recall, "entropy": entropy}
