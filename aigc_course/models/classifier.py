"""A small convolutional classifier of Fashion-MNIST, in whose feature space lesson 23 measures generated images."""

import torch
from torch import nn

from aigc_course.data import shipped
from aigc_course.paths import DATA

FASHION_CLASSIFIER = DATA / "models" / "fashion_classifier"


class ImageClassifier(nn.Module):
    """Logits of the classes, `(B, num_classes)`, for images `(B, 1, 28, 28)` in [0, 1].

    width: channels of the first of three convolutions; the others have two and four times as many.
    features: how many numbers the last layer but one puts out.
    """

    def __init__(self, width=16, features=64, num_classes=10, dropout=0.3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),  # (B, width, 28, 28)
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2, bias=False),  # (B, 2 width, 14, 14)
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1, stride=2, bias=False),  # (B, 4 width, 7, 7)
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * width * 7 * 7, features),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes)

    def features(self, x):
        """What the last layer but one puts out, `(B, features)`, for images `(B, 1, 28, 28)` in [0, 1]."""
        return self.body(2 * x - 1)

    def forward(self, x):
        return self.head(self.dropout(self.features(x)))


def fashion_classifier():
    """The classifier that comes with the course, in evaluation mode, on the CPU, float32.

    Made by `python -m aigc_course.recipes.image_classifier`; see data/models/fashion_classifier/README.md. Raises
    DamagedFile when one of its files is cut or altered.
    """
    config, weights = shipped("fashion_classifier")
    model = ImageClassifier(**config["model"])
    model.load_state_dict(weights, strict=False)  # without batch normalisation's counts of batches
    return model.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def share_recognised(model, images, labels):
    """Share of `images`, bytes `(N, 28, 28)`, that the model puts into the class of their label, `(N,)`."""
    device = next(model.parameters()).device
    right = 0
    for x, y in zip(images.split(1000), labels.split(1000)):
        x = x.unsqueeze(1).to(device).float() / 255
        right += (model(x).argmax(dim=1).cpu() == y).sum().item()
    return right / len(images)
