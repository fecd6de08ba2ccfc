"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057): a query of one view finds the key of the other among all images' keys.

Keys come from a momentum encoder without predictor; queries from the student, whose patch projection is left at its
random start, because that is where training of ViTs becomes unstable (section 4.3). Batch norm of projectors and
predictor runs over all images of a view, as in the reference (moco-v3@c349e6e:main_moco.py converts to SyncBatchNorm;
moco/builder.py passes the views one by one), whichever processes and micro-batches they are in: see `projector`.
Letters: B images of the global batch, b of a part, V = 2 views, D encoder width, d projected width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling import parallel
from scaling.algorithms.algorithm import Picture
from scaling.algorithms.attention import attention_picture
from scaling.algorithms.closed_forms import mocov3_widths
from scaling.algorithms.projector import Ahead, Projector
from scaling.data.views import blur, jitter, normalise, random_crop, solarise
from scaling.models.shape import Shape
from scaling.models.vit import Encoder
from scaling.options import MocoV3Options
from scaling.parallel import Draws


class MoCoV3(nn.Module):
    def __init__(self, shape: Shape, options: MocoV3Options) -> None:
        super().__init__()
        self.options = options
        self.shape = shape
        to_keys, to_queries = mocov3_widths(shape, options)
        self.probed = self.encoder = Encoder(shape, drop_path=options.drop_path)
        self.projector = Projector(to_keys, "norm")
        self.predictor = Projector(to_queries, "norm")
        if options.freeze_patches:
            self.encoder.vit.patch_embed.requires_grad_(False)
        self.teacher = nn.ModuleDict({"encoder": Encoder(shape), "projector": copy.deepcopy(self.projector)})
        self.teacher["encoder"].load_state_dict(self.encoder.state_dict())
        self.teacher.requires_grad_(False)
        self.ahead: Ahead | None = None
        """In a step of several parts: the loss of the whole batch and its gradients."""

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Both directions of InfoNCE, times 2 tau each, and the mean cosine of queries and their keys."""
        views = self.views(normalise(images_BCHW), draws)
        tokens_bVD = class_tokens(self.encoder, views)
        if self.ahead is not None:
            return self.ahead.loss_of(tokens_bVD, draws)
        tokens_BVD, _ = parallel.gather(tokens_bVD)
        return self.loss_of_all(tokens_BVD, self.keys(parallel.gather(self.teacher_tokens(views))[0]))

    def views(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """(2 b, ...), all first views before all second ones: BYOL's asymmetric pair (main_moco.py)."""
        views = []
        for blur_at, solarise_at in ((1.0, 0.0), (0.1, 0.2)):
            view = jitter(random_crop(images_BCHW, self.shape.image_size, self.options.crop_scale, draws), draws)
            view = blur(view, draws, probability=blur_at)
            views.append(solarise(view, draws, probability=solarise_at))
        return torch.cat(views)

    @torch.no_grad()
    def teacher_tokens(self, views: Tensor) -> Tensor:
        return class_tokens(self.teacher["encoder"], views)

    @torch.no_grad()
    def keys(self, tokens_BVD: Tensor) -> Tensor:
        """(V, B, d) of the momentum encoder's class tokens."""
        return torch.stack([self.teacher["projector"](tokens_BD) for tokens_BD in tokens_BVD.unbind(1)])

    def loss_of_all(self, tokens_BVD: Tensor, keys_VBd: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        queries_VBd = torch.stack([self.predictor(self.projector(tokens_BD)) for tokens_BD in tokens_BVD.unbind(1)])
        others_VBd = keys_VBd.flip(0)
        pairs = zip(queries_VBd, others_VBd, strict=True)
        loss = torch.stack([info_nce(queries, keys, self.options.temperature) for queries, keys in pairs]).sum()
        cosine = F.cosine_similarity(queries_VBd.detach(), others_VBd, dim=-1).mean()
        return loss, {"positive_cosine": cosine}

    @torch.no_grad()
    def look_ahead(self, parts: Iterable[tuple[Tensor, Draws]], *, progress: float) -> None:
        """One more forward pass of the student, which `train_flops` leaves out; the teacher's is not repeated. Holds
        the class tokens of all images and, for a moment, the heads' activations and 2 B^2 similarities, as a step in
        one part does."""
        tokens, teacher_tokens = [], []
        for images_BCHW, draws in parts:
            views = self.views(normalise(images_BCHW), draws)
            tokens.append(parallel.gather(class_tokens(self.encoder, views))[0])
            teacher_tokens.append(parallel.gather(self.teacher_tokens(views))[0])
        keys_VBd = self.keys(torch.cat(teacher_tokens))
        heads = [self.projector, self.predictor]
        self.ahead = Ahead.of(lambda tokens_BVD: self.loss_of_all(tokens_BVD, keys_VBd), torch.cat(tokens), heads)

    def picture(self, images_BCHW: Tensor) -> Picture:
        return attention_picture(self.probed, images_BCHW)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The momentum encoder moves towards the student, less and less: momentum rises by a cosine.

        The reference does so at the start of the next step, with that one's momentum.
        """
        self.ahead = None
        start, end = self.options.ema
        momentum = end - (end - start) * (1 + math.cos(math.pi * progress)) / 2
        for teacher, student in ((self.teacher["encoder"], self.encoder), (self.teacher["projector"], self.projector)):
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)


def class_tokens(encoder: nn.Module, views: Tensor) -> Tensor:
    """(2 b, ...) -> (b, V, D), fp32."""
    tokens_VbD: Tensor = encoder(views)[:, 0].unflatten(0, (2, -1))
    return tokens_VbD.float().transpose(0, 1)


def info_nce(queries_Bd: Tensor, keys_Bd: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each query's key among all keys, by cosine, mean over queries, times 2 tau (equation 1 and
    moco-v3@c349e6e:moco/builder.py), so that gradients keep their size when tau changes."""
    with torch.autocast(queries_Bd.device.type, enabled=False):
        queries, keys = F.normalize(queries_Bd.float(), dim=-1), F.normalize(keys_Bd.float(), dim=-1)
        right = torch.arange(len(queries), device=queries.device)
        return 2 * temperature * F.cross_entropy(queries @ keys.T / temperature, right)
