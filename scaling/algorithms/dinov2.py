"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): DINO + iBOT + KoLeo with multi-crop and an EMA teacher.

A student sees two global crops, some of their patches masked, and several local ones; a teacher, the running mean of
the student, sees the global crops whole. DINO matches class tokens across crops, iBOT masked patches within a crop,
KoLeo spreads the class tokens of a crop apart; it and Sinkhorn's centring look across all images of a step, whichever
processes and micro-batches have them. Without weights for some of the terms it is DINO (Caron et al. 2021) or iBOT
(Zhou et al. 2022). The heads of DINO and iBOT are tied, as in the reference default, or separate.
Letters: B batch, G = 2 B global crops, L local crops, N patches, M masked patches of all crops, R rows, D width,
P prototypes.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling import parallel
from scaling.algorithms.algorithm import Picture
from scaling.algorithms.attention import attention_picture
from scaling.algorithms.centring import Centring, sinkhorn_columns
from scaling.algorithms.closed_forms import global_size, head_sizes, local_size, n_local
from scaling.algorithms.cross_entropy import cross_entropy
from scaling.data.views import blur, jitter, normalise, random_crop, solarise
from scaling.models.shape import Shape
from scaling.models.vit import Encoder
from scaling.options import DinoV2Options
from scaling.parallel import Draws


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
        """(..., P) cosines, of a product in the precision of the run; `frozen` holds the prototypes still."""
        at = F.normalize(self.mlp(tokens).float(), dim=-1, eps=1e-6)
        prototypes = F.normalize(self.prototypes.detach() if frozen else self.prototypes, dim=-1)
        return F.linear(at, prototypes)


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Which patches of the global crops the student does not see."""

    patches_GN: Tensor
    at_M: Tensor
    """Their places among all patches of all crops."""
    weight_M: Tensor
    """1 / masked patches of the crop."""
    n_all: int
    """Masked patches of the whole step."""


class DINOv2(nn.Module):
    """Also DINO and iBOT: a term without weight has no parameters, and nothing is computed for it."""

    head: Head
    ibot_head: Head
    """Only where it is separate."""

    def __init__(self, shape: Shape, options: DinoV2Options) -> None:
        super().__init__()
        self.options = options
        self.shape = shape
        uniform, layer_scale = options.drop_path_rule == "uniform", options.layer_scale
        self.encoder = Encoder(shape, drop_path=options.drop_path, uniform=uniform, layer_scale=layer_scale)
        for name, sizes in head_sizes(options).items():
            self.add_module(name, Head(shape.width, *sizes))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.width)) if options.ibot_weight else None
        heads = {name: self.get_submodule(name) for name in head_sizes(options)}
        whole = Encoder(shape, layer_scale=layer_scale)
        self.teacher: nn.ModuleDict = copy.deepcopy(nn.ModuleDict({"encoder": whole, **heads}))
        self.teacher["encoder"].load_state_dict(self.encoder.state_dict())
        self.teacher.requires_grad_(False)
        self.probed = self.teacher["encoder"]
        self.heads = {"dino": "head", "ibot": "head" if options.ibot_head == "tied" else "ibot_head"}
        """Name of each term's head."""
        weights = {"dino": options.dino_weight, "ibot": options.ibot_weight}
        self.centring = nn.ModuleDict(
            {
                term: Centring(head_sizes(options)[self.heads[term]][-1], options.centering)
                for term, weight in weights.items()
                if weight
            }
        )
        self.koleo_ahead: tuple[Tensor, Tensor] | None = None
        """In a step of several parts: KoLeo of the whole batch and its gradient by all class tokens, (G, D)."""

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the terms that have a weight, each returned beside it, with the teacher's entropy in nats:
        of its class tokens, without DINO of its masked patches."""
        o = self.options
        crops_G, crops_L = self.crops(normalise(images_BCHW), draws)
        masks = self.masks(len(crops_G), crops_G.shape[-1], draws)
        targets, entropy = self.targets(crops_G, masks, progress, draws)
        frozen = progress < o.freeze_last_layer
        tokens_G = self.encode(crops_G, masks)
        logits = {term: self.logits(term, rows, frozen) for term, rows in self.rows(tokens_G, masks).items()}
        terms = {}
        if "dino" in logits:
            logits_L = self.logits("dino", self.encoder(crops_L)[:, 0], frozen) if len(crops_L) else None
            terms["dino"] = dino_loss(logits["dino"], logits_L, targets["dino"], o.student_temp)
        if masks:
            of_patches = cross_entropy(logits["ibot"], targets["ibot"], o.student_temp)
            terms["ibot"] = (of_patches * masks.weight_M).sum() / len(crops_G)
        if o.koleo_weight:
            terms["koleo"] = self.koleo(tokens_G[:, 0], draws)
        total = torch.stack([getattr(o, f"{name}_weight") * term for name, term in terms.items()]).sum()
        return total, {**{name: term.detach() for name, term in terms.items()}, "teacher_entropy": entropy}

    def crops(self, images_BCHW: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Two global crops of each image, all first ones before all second ones; then the local crops likewise."""
        o, size, n_small = self.options, global_size(self.shape, self.options), n_local(self.options)
        views = []
        for blur_at, solarise_at in ((1.0, 0.0), (0.1, 0.2)):  # BYOL's asymmetry, as in the reference
            view = jitter(random_crop(images_BCHW, size, o.global_scale, draws), draws)
            view = blur(view, draws, probability=blur_at)
            views.append(solarise(view, draws, probability=solarise_at))
        if not n_small:
            return torch.cat(views), images_BCHW[:0]
        repeated = images_BCHW.repeat(n_small, 1, 1, 1)
        local = random_crop(repeated, local_size(self.shape, o), o.local_scale, draws)
        return torch.cat(views), blur(jitter(local, draws), draws, probability=0.5)

    def masks(self, n_crops: int, size: int, draws: Draws) -> Masks | None:
        """Patches of one random block first, then others, up to the crop's count; None without iBOT.

        Counts are dealt out over the global batch.
        """
        if self.mask_token is None:
            return None
        grid, n_all = size // self.shape.patch_size, draws.n_all(n_crops)
        dealt = masked_counts(n_all, grid**2, self.options)
        counts = torch.tensor(dealt, device=draws.device)
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
        if n_all == n_crops:  # their number is known, so that the host need not wait for a GPU to count them
            at_M = masked_GN.flatten().byte().argsort(descending=True, stable=True)[: sum(dealt)]
        else:
            at_M = masked_GN.flatten().nonzero()[:, 0]
        return Masks(patches_GN=masked_GN, at_M=at_M, weight_M=1 / counts_G[at_M // grid**2], n_all=sum(dealt))

    def encode(self, crops_G: Tensor, masks: Masks | None) -> Tensor:
        """The student's tokens (G, 1 + N, D)."""
        masked_GN = None if masks is None else masks.patches_GN
        tokens_G: Tensor = self.encoder(crops_G, masked_BN=masked_GN, mask_token=self.mask_token)
        return tokens_G

    def rows(self, tokens_G: Tensor, masks: Masks | None) -> dict[str, Tensor]:
        """The tokens that each term compares: class tokens (G, D) of `dino`, masked patches (M, D) of `ibot`."""
        rows = {"dino": tokens_G[:, 0]} if self.options.dino_weight else {}
        return rows if masks is None else {**rows, "ibot": tokens_G[:, 1:].flatten(0, 1).index_select(0, masks.at_M)}

    def logits(self, term: str, rows_RD: Tensor, frozen: bool) -> Tensor:
        """The student's, (R, P)."""
        logits_RP: Tensor = self.get_submodule(self.heads[term])(rows_RD, frozen=frozen)
        return logits_RP

    @torch.no_grad()
    def targets(
        self, crops_G: Tensor, masks: Masks | None, progress: float, draws: Draws
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Teacher's distributions (R, P) of each term's rows, centred and sharpened, and the entropy of the first."""
        temperature = self.temperature(progress)
        n_all = {"dino": draws.n_all(len(crops_G)), "ibot": 0 if masks is None else masks.n_all}
        targets = {
            term: self.centring[term](self.teacher[self.heads[term]](rows), temperature, n_all[term])
            for term, rows in self.rows(self.teacher["encoder"](crops_G), masks).items()
        }
        first = next(iter(targets))
        return targets, torch.special.entr(targets[first]).sum() / max(1, n_all[first] * draws.share)

    def temperature(self, progress: float) -> float:
        """The teacher's."""
        start, end = self.options.teacher_temp
        warmup = self.options.teacher_temp_warmup
        return start + (end - start) * (min(1.0, progress / warmup) if warmup else 1.0)

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
        Sinkhorn's centring multiplies the columns of the whole batch by; with neither, nothing.

        Costs one more forward pass of the global crops, by the student if KoLeo has a weight and by the teacher for
        Sinkhorn, measured on a CPU as 17 to 30 % of a step and 42 % for both, and no activations; `train_flops` leaves
        it out. Until the step ends, KoLeo holds G D fp32 values, for a moment some of these and the B^2 similarities it
        has without parts too. For a moment Sinkhorn holds the teacher's (G + M) D tokens of this process: logits, P / D
        times as many, are made anew from them, part by part.
        """
        has_koleo, has_sinkhorn = self.options.koleo_weight > 0, self.options.centering == "sinkhorn"
        if not has_koleo and not has_sinkhorn:
            return
        cls, ahead = [], defaultdict(list)
        for images_BCHW, draws in parts:
            crops_G, _ = self.crops(normalise(images_BCHW), draws)
            masks = self.masks(len(crops_G), crops_G.shape[-1], draws)
            if has_koleo:
                tokens_G = self.encode(crops_G, masks)
                cls.append(parallel.gather(by_image(tokens_G[:, 0]).clone())[0])  # a view would hold all tokens
            if has_sinkhorn:
                for term, rows in self.rows(self.teacher["encoder"](crops_G), masks).items():
                    ahead[term].append(rows.clone())
        if has_koleo:
            self.koleo_ahead = koleo_with_gradient(torch.cat(cls).transpose(0, 1).flatten(0, 1))
        for term, rows_of_parts in ahead.items():
            self.centring[term].columns = self._columns(term, rows_of_parts, self.temperature(progress))

    def _columns(self, term: str, rows_of_parts: list[Tensor], temperature: float) -> Tensor:
        head = self.teacher[self.heads[term]]
        return sinkhorn_columns(lambda: (head(rows).float() / temperature for rows in rows_of_parts))

    def picture(self, images_BCHW: Tensor) -> Picture | None:
        """None for iBOT's patches alone: they leave the class token untrained."""
        o = self.options
        return attention_picture(self.probed, images_BCHW) if o.dino_weight or o.koleo_weight else None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The teacher moves towards the student, less and less: momentum rises by a cosine. The centres follow it."""
        self.koleo_ahead = None
        start, end = self.options.ema
        momentum = end - (end - start) * (1 + math.cos(math.pi * progress)) / 2
        for name, teacher in self.teacher.items():
            student = self.get_submodule(name)
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
        for centring in self.centring.values():
            assert isinstance(centring, Centring)
            centring.after_step()


def dino_loss(logits_G: Tensor, logits_L: Tensor | None, target_G: Tensor, temperature: float) -> Tensor:
    """Mean over all pairs of a teacher's global crop and another crop of the same image: 2 + 2 x n_local pairs."""
    b = len(target_G) // 2
    loss, n = cross_entropy(logits_G, target_G.roll(b, dims=0), temperature).sum(), 2 * b
    if logits_L is not None:  # both pairs of a local crop at once, as cross entropy is linear in its target
        both = target_G.unflatten(0, (2, b)).mean(dim=0)
        loss, n = loss + 2 * cross_entropy(logits_L, both, temperature).sum(), n + 2 * len(logits_L)
    return loss / n


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
