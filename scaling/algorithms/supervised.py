"""The upper reference: the same encoder trained with labels, on the training splits of the labelled tasks.

One linear head for each task, all on the same features. An image's loss is the cross entropy of its task; images
without a label are seen and teach nothing. It says what encoder and images give when the answers are told, at the same
budget and read out by the same probes; no validation or test image carries a label. The recipe is DeiT's (Touvron et
al. 2021, arXiv 2012.12877), without mixing images, which would have to be of one task.
Letters: B batch, C classes of a head or of all, L values of a label, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.algorithms.algorithm import Picture
from scaling.algorithms.attention import attention_picture
from scaling.data.views import jitter, normalise, random_crop
from scaling.models.shape import Shape
from scaling.models.vit import Encoder
from scaling.options import LabelHead, SupervisedOptions
from scaling.parallel import Draws


class Supervised(nn.Module):
    def __init__(self, shape: Shape, options: SupervisedOptions) -> None:
        super().__init__()
        if options.labels is None:
            raise ValueError("supervised has no labels to learn; a plan fills in `labels` from the source's tasks")
        self.options = options
        self.shape = shape
        self.tasks = options.labels.heads
        self.label_width = max(task.n_label_values for task in self.tasks)
        self.probed = self.encoder = Encoder(shape, drop_path=options.drop_path)
        self.head = nn.Linear(shape.width * (2 if options.pool == "both" else 1), sum(t.n_classes for t in self.tasks))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.labels_BL: Tensor | None = None
        """Of the whole batch, as `tell` had them."""

    def tell(self, labels_BL: Tensor) -> None:
        self.labels_BL = labels_BL

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy in nats, a mean over the step's images that have a label; beside it their share."""
        assert self.labels_BL is not None, "labels are told before the loss is asked for"
        o = self.options
        images = random_crop(normalise(images_BCHW), self.shape.image_size, o.crop_scale, draws)
        logits_BC = self.head(self.features(self.encoder(jitter(images, draws)))).float()
        n_labelled = (self.labels_BL[:, 0] >= 0).sum().clamp(min=1)  # of all parts: each weighs by its labels
        labels_BL = draws.rows(self.labels_BL)
        losses_B = logits_BC.sum(dim=1) * 0.0  # every head has a gradient in every part, if only of zeros
        of_tasks = logits_BC.split([task.n_classes for task in self.tasks], dim=1)
        for i, (task, logits) in enumerate(zip(self.tasks, of_tasks, strict=True)):
            each = task_loss(task, logits, labels_BL[:, 1:], o.label_smoothing)
            losses_B = losses_B + torch.where(labels_BL[:, 0] == i, each, 0.0)
        labelled = (labels_BL[:, 0] >= 0).float().mean()
        return losses_B.sum() / n_labelled / draws.share, {"labelled": labelled}

    def features(self, tokens_BND: Tensor) -> Tensor:
        """Class token, mean of the patch tokens, or both side by side."""
        cls, mean = tokens_BND[:, 0], tokens_BND[:, 1:].mean(dim=1)
        return {"cls": cls, "mean": mean, "both": torch.cat([cls, mean], dim=1)}[self.options.pool]

    def picture(self, images_BCHW: Tensor) -> Picture | None:
        """None for heads that read the patches alone: they leave the class token untrained."""
        return None if self.options.pool == "mean" else attention_picture(self.probed, images_BCHW)

    def after_step(self, progress: float) -> None:
        """Nothing follows a step."""


def task_loss(task: LabelHead, logits_BC: Tensor, values_BL: Tensor, smoothing: float) -> Tensor:
    """(B,) cross entropy, for several labels the mean over them; of no meaning where the label is another task's."""
    if task.kind == "multi-label":
        wanted = values_BL[:, : task.n_classes].clamp(0, 1).to(logits_BC.dtype)
        return F.binary_cross_entropy_with_logits(logits_BC, wanted, reduction="none").mean(dim=1)
    wanted = values_BL[:, 0].clamp(0, task.n_classes - 1)
    return F.cross_entropy(logits_BC, wanted, reduction="none", label_smoothing=smoothing)
