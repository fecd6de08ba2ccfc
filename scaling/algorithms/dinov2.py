"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): DINO + iBOT + KoLeo with multi-crop and an EMA teacher.

A student sees two global crops, some of their patches masked, and several local ones; a teacher, the running mean of
the student, sees the global crops whole. DINO matches class tokens across crops, iBOT masked patches within a crop,
KoLeo spreads the class tokens of a crop apart; it and Sinkhorn's centring look across all images of a step, whichever
processes and micro-batches have them. The heads of DINO and iBOT are tied, as in the reference default.
Letters: B batch, G = 2 B global crops, L local crops, N patches, M masked patches of all crops, D width, P prototypes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling import parallel
from scaling.algorithms.closed_forms import global_size, local_size
from scaling.data.views import blur, jitter, normalise, random_crop, solarise
from scaling.models.shape import Shape
from scaling.models.vit import Encoder
from scaling.options import DinoV2Options
from scaling.parallel import Draws, Part

CENTRE_MOMENTUM = 0.9
"""dinov2/loss/dino_clstoken_loss.py"""
WARMUP_TEACHER_TEMP = 0.3
"""Share of the run, 30 of 100 epochs in the reference."""


def masked_counts(n_crops: int, n_patches: int, options: DinoV2Options) -> list[int]:
    """Masked patches of each global crop before shuffling: fixed, so that every whole batch has the same shapes."""
    n_masked = int(n_crops * options.mask_probability)
    low, high = options.mask_range
    ratios = [low + (high - low) * (i + 0.5) / n_masked for i in range(n_masked)]
    return [max(1, round(ratio * n_patches)) for ratio in ratios] + [0] * (n_crops - n_masked)


class Head(nn.Module):
    """Three-layer perceptron, bottleneck on the unit sphere, cosine to the prototypes (DINO, section 3.1)."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, tokens: Tensor, *, frozen: bool = False) -> Tensor:
        """(..., P) cosines as fp32, from a product in the precision of the run; `frozen` holds the prototypes still."""
        at = F.normalize(self.mlp(tokens).float(), dim=-1, eps=1e-6)
        prototypes = F.normalize(self.prototypes.detach() if frozen else self.prototypes, dim=-1)
        return F.linear(at, prototypes).float()


class DINOv2(nn.Module):
    dino_centre: Tensor
    ibot_centre: Tensor
    seen: Tensor
    """Mean teacher logits of the step's class tokens and masked patches so far; the centres move by it afterwards."""

    def __init__(self, shape: Shape, options: DinoV2Options) -> None:
        super().__init__()
        self.options = options
        self.shape = shape
        self.encoder = Encoder(shape, drop_path=options.drop_path)
        self.head = Head(shape.width, options.head_hidden, options.head_bottleneck, options.prototypes)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.teacher: nn.ModuleDict = copy.deepcopy(nn.ModuleDict({"encoder": Encoder(shape), "head": self.head}))
        self.teacher["encoder"].load_state_dict(self.encoder.state_dict())
        self.teacher.requires_grad_(False)
        self.probed = self.teacher["encoder"]
        self.register_buffer("dino_centre", torch.zeros(1, options.prototypes))
        self.register_buffer("ibot_centre", torch.zeros(1, options.prototypes))
        self.register_buffer("seen", torch.zeros(2, options.prototypes), persistent=False)
        self.masks_any = False
        """Whether the step masks any patch in any part."""
        self.koleo_ahead: tuple[Tensor, Tensor] | None = None
        """In a step of several parts: KoLeo of the whole batch and its gradient by all class tokens, (G, D)."""
        self.columns_ahead: tuple[Tensor, Tensor] | None = None
        """In a step of several parts: `sinkhorn_columns` of class tokens and of masked patches, (1, P) each."""

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the three terms, each returned beside it, with the teacher's entropy in nats.

        KoLeo is left out where it has no weight: there is then nothing to look ahead for.
        """
        o = self.options
        crops_G, crops_L = self.crops(normalise(images_BCHW), draws)
        masked_GN, weight_M = self.masks(len(crops_G), crops_G.shape[-1], draws)
        cls_teacher, patch_teacher = self.targets(crops_G, masked_GN, progress, draws.part)
        frozen = progress < o.freeze_last_layer
        tokens_G = self.encoder(crops_G, masked_BN=masked_GN, mask_token=self.mask_token)
        cls_G = tokens_G[:, 0]
        logits_G = self.head(cls_G, frozen=frozen)
        logits_L = self.head(self.encoder(crops_L)[:, 0], frozen=frozen) if o.n_local else None
        logits_M = self.head(tokens_G[:, 1:][masked_GN], frozen=frozen)
        terms = {
            "dino": dino_loss(logits_G, logits_L, cls_teacher, o.student_temp),
            "ibot": (cross_entropy(logits_M, patch_teacher, o.student_temp) * weight_M).sum() / len(crops_G),
        }
        total = o.dino_weight * terms["dino"] + o.ibot_weight * terms["ibot"]
        if o.koleo_weight:
            terms["koleo"] = self.koleo(cls_G, draws)
            total = total + o.koleo_weight * terms["koleo"]
        entropy = torch.special.entr(cls_teacher).sum(dim=-1).mean()
        return total, {**{name: term.detach() for name, term in terms.items()}, "teacher_entropy": entropy}

    def crops(self, images_BCHW: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Two global crops of each image, all first ones before all second ones; then the local crops likewise."""
        o, size = self.options, global_size(self.shape, self.options)
        views = []
        for blur_at, solarise_at in ((1.0, 0.0), (0.1, 0.2)):  # BYOL's asymmetry, as in the reference
            view = jitter(random_crop(images_BCHW, size, o.global_scale, draws), draws)
            view = blur(view, draws, probability=blur_at)
            views.append(solarise(view, draws, probability=solarise_at))
        if not o.n_local:
            return torch.cat(views), images_BCHW[:0]
        repeated = images_BCHW.repeat(o.n_local, 1, 1, 1)
        local = random_crop(repeated, local_size(self.shape, o), o.local_scale, draws)
        return torch.cat(views), blur(jitter(local, draws), draws, probability=0.5)

    def masks(self, n_crops: int, size: int, draws: Draws) -> tuple[Tensor, Tensor]:
        """(G, N) true where masked: patches of one random block first, then others, up to the crop's count.

        With it (M,) the weight 1 / masked patches of the crop. Counts are dealt out over the global batch.
        """
        grid, n_all = size // self.shape.patch_size, draws.n_all(n_crops)
        counts = torch.tensor(masked_counts(n_all, grid**2, self.options), device=draws.device)
        counts_G = draws.rows(counts[draws.of_all((n_all,)).argsort()])
        aspect = torch.exp(draws.uniform((n_crops,), math.log(0.3), math.log(1 / 0.3)))  # BEiT's range
        height = (counts_G * aspect).sqrt().clamp(1, grid).round()
        width = (counts_G / height).ceil().clamp(1, grid)
        top = (draws.uniform((n_crops,)) * (grid - height + 1)).floor()
        left = (draws.uniform((n_crops,)) * (grid - width + 1)).floor()
        at = torch.arange(grid, device=draws.device)
        rows = (at >= top[:, None]) & (at < (top + height)[:, None])
        columns = (at >= left[:, None]) & (at < (left + width)[:, None])
        inside_GN = (rows[:, :, None] & columns[:, None, :]).flatten(1)
        rank_GN = (draws.uniform((n_crops, grid**2)) - inside_GN.float()).argsort(dim=1).argsort(dim=1)
        masked_GN = rank_GN < counts_G[:, None]
        weight_GN = (1 / counts_G.clamp(min=1))[:, None].expand_as(masked_GN)
        return masked_GN, weight_GN[masked_GN]

    @torch.no_grad()
    def targets(self, crops_G: Tensor, masked_GN: Tensor, progress: float, part: Part | None) -> tuple[Tensor, Tensor]:
        """Teacher's distributions (G, P) of class tokens and (M, P) of the masked patches, centred and sharpened."""
        temperature = self.temperature(progress)
        tokens_G = self.teacher["encoder"](crops_G)
        logits_G = self.teacher["head"](tokens_G[:, 0])
        logits_M = self.teacher["head"](tokens_G[:, 1:][masked_GN])
        if self.columns_ahead is not None:
            cls_columns, patch_columns = self.columns_ahead
            cls = (logits_G / temperature + cls_columns).softmax(dim=-1)
            return cls, (logits_M / temperature + patch_columns).softmax(dim=-1)
        if self.options.centering == "sinkhorn":
            return sinkhorn(logits_G / temperature), sinkhorn(logits_M / temperature)
        cls = ((logits_G - self.dino_centre) / temperature).softmax(dim=-1)
        patch = ((logits_M - self.ibot_centre) / temperature).softmax(dim=-1)
        n_masked = len(logits_M)
        if part is not None:
            n_masked = sum(masked_counts(part.n_all(len(crops_G)), masked_GN.shape[1], self.options))
        self.masks_any = n_masked > 0
        self.seen[0] += logits_G.mean(dim=0) * (1 if part is None else part.share)
        if len(logits_M):
            self.seen[1] += logits_M.mean(dim=0) * (len(logits_M) / n_masked)
        return cls, patch

    def temperature(self, progress: float) -> float:
        """The teacher's."""
        start, end = self.options.teacher_temp
        return start + (end - start) * min(1.0, progress / WARMUP_TEACHER_TEMP)

    def koleo(self, cls_G: Tensor, draws: Draws) -> Tensor:
        """Of both crops over all images of the step, as a mean over those here."""
        if self.koleo_ahead is not None:
            value, gradient_G = self.koleo_ahead
            zero_G = (cls_G - cls_G.detach()).float()  # all but its derivative
            return value + (zero_G * draws.rows(gradient_G)).sum() / draws.share
        both_BGD, start = parallel.gather(by_image(cls_G))
        return torch.stack([koleo(both_BGD[:, i], start, len(cls_G) // 2) for i in (0, 1)]).sum()

    @torch.no_grad()
    def look_ahead(self, parts: Iterable[tuple[Tensor, Draws]], *, progress: float) -> None:
        """KoLeo of the whole batch with its gradient, as in GradCache (Gao et al. 2021, arXiv 2101.06983), and what
        Sinkhorn's centring multiplies the columns of the whole batch by.

        Costs one more forward pass of the global crops, by the student if KoLeo has a weight and by the teacher for
        Sinkhorn, measured on a CPU as 17 to 30 % of a step and 42 % for both, and no activations; `train_flops` leaves
        it out. Until the step ends, KoLeo holds G D fp32 values, for a moment some of these and the B^2 similarities it
        has without parts too. For a moment Sinkhorn holds the teacher's (G + M) D tokens of this process: logits, P / D
        times as many, are made anew from them, part by part.
        """
        cls, teacher_cls, teacher_patches = [], [], []
        for images_BCHW, draws in parts:
            crops_G, _ = self.crops(normalise(images_BCHW), draws)
            masked_GN, _ = self.masks(len(crops_G), crops_G.shape[-1], draws)
            if self.options.koleo_weight:
                tokens_G = self.encoder(crops_G, masked_BN=masked_GN, mask_token=self.mask_token)
                cls.append(parallel.gather(by_image(tokens_G[:, 0]).clone())[0])  # a view would hold all tokens
            if self.options.centering == "sinkhorn":
                tokens_G = self.teacher["encoder"](crops_G)
                teacher_cls.append(tokens_G[:, 0].clone())
                teacher_patches.append(tokens_G[:, 1:][masked_GN])
        if cls:
            self.koleo_ahead = koleo_with_gradient(torch.cat(cls).transpose(0, 1).flatten(0, 1))
        if teacher_cls:
            self.columns_ahead = self._columns(teacher_cls, progress), self._columns(teacher_patches, progress)

    def _columns(self, tokens: list[Tensor], progress: float) -> Tensor:
        temperature = self.temperature(progress)
        return sinkhorn_columns(lambda: (self.teacher["head"](part) / temperature for part in tokens))

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The teacher moves towards the student, less and less: momentum rises by a cosine. The centres follow it."""
        self.koleo_ahead = self.columns_ahead = None
        start, end = self.options.ema
        momentum = end - (end - start) * (1 + math.cos(math.pi * progress)) / 2
        for teacher, student in ((self.teacher["encoder"], self.encoder), (self.teacher["head"], self.head)):
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
        if self.options.centering == "mean":
            means = parallel.total(self.seen)
            self.dino_centre.lerp_(means[:1], 1 - CENTRE_MOMENTUM)
            if self.masks_any:
                self.ibot_centre.lerp_(means[1:], 1 - CENTRE_MOMENTUM)
            self.seen.zero_()


def cross_entropy(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """(...,) cross entropy of each row in nats."""
    return -(target * (logits / temperature).log_softmax(dim=-1)).sum(dim=-1)


def dino_loss(logits_G: Tensor, logits_L: Tensor | None, target_G: Tensor, temperature: float) -> Tensor:
    """Mean over all pairs of a teacher's global crop and another crop of the same image: 2 + 2 x n_local pairs."""
    swapped = target_G.roll(len(target_G) // 2, dims=0)
    pairs = [
        cross_entropy(half, target, temperature).mean()
        for half, target in zip(logits_G.chunk(2), swapped.chunk(2), strict=True)
    ]
    if logits_L is not None:
        for local in logits_L.split(len(target_G) // 2):
            pairs += [cross_entropy(local, target, temperature).mean() for target in target_G.chunk(2)]
    return torch.stack(pairs).mean()


def koleo(cls_BD: Tensor, start: int = 0, n: int | None = None) -> Tensor:
    """Kozachenko-Leonenko entropy: minus the mean log distance to the nearest other (Sablayrolles et al. 2019).

    Of all rows, or of `n` from `start` on, whose neighbours are sought among all.
    """
    with torch.autocast(cls_BD.device.type, enabled=False):
        unit = F.normalize(cls_BD, dim=-1, eps=1e-8)
        mine = unit[start : len(unit) if n is None else start + n]
        similarity = (mine @ unit.T).detach()
        similarity.diagonal(start).fill_(-1)
        nearest = unit[similarity.argmax(dim=1)]
        return -(F.pairwise_distance(mine, nearest, eps=1e-8) + 1e-8).log().mean()


def koleo_with_gradient(cls_G: Tensor) -> tuple[Tensor, Tensor]:
    """Of both crops of all images, summed, and its gradient (G, D)."""
    with torch.enable_grad():
        cls_G = cls_G.detach().requires_grad_()
        value = torch.stack([koleo(crops) for crops in cls_G.chunk(2)]).sum()
        (gradient_G,) = torch.autograd.grad(value, cls_G)
    return value.detach(), gradient_G


def by_image(rows_G: Tensor) -> Tensor:
    """(G, ...) -> (B, 2, ...), fp32: both crops of each image beside each other."""
    return rows_G.float().unflatten(0, (2, -1)).transpose(0, 1)


def sinkhorn(logits: Tensor, *, iterations: int = 3) -> Tensor:
    """Rows sum to 1, columns share the batch evenly (Caron et al. 2020, SwAV); an empty batch stays empty.

    Columns reach over the rows of all processes, as in the reference.
    """
    if not len(logits) and parallel.n_ranks() == 1:
        return logits
    top = logits.max() if len(logits) else logits.new_tensor(-math.inf)
    q = (logits - parallel.largest(top)).exp()
    for _ in range(iterations):
        q = q / parallel.total(q.sum(dim=0, keepdim=True))
        q = q / q.sum(dim=1, keepdim=True)
    return q


def sinkhorn_columns(parts: Callable[[], Iterable[Tensor]], *, iterations: int = 3) -> Tensor:
    """(1, P) by which (logits + columns).softmax(dim=1) is `sinkhorn` of the rows of all parts and all processes.

    `parts` gives the logits, one part after the other, once an iteration. Rows sum to 1 whatever their scale, so that
    the columns' scales are all there is to know of the other rows. In logarithms, so that nothing underflows.
    """
    columns: Tensor | None = None
    for _ in range(iterations):
        rows = (logits if columns is None else (logits + columns).log_softmax(dim=1) for logits in parts())
        sums, _ = parallel.gather(torch.stack([log_q.logsumexp(dim=0) for log_q in rows]))
        total = sums.logsumexp(dim=0, keepdim=True)
        columns = -total if columns is None else columns - total
    assert columns is not None
    return columns
