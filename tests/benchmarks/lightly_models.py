"""lightly's MAE and DINOv2 at any of our shapes, put together as in the examples of its documentation.

Everything about the objective is lightly's: encoder, decoder or head, masks, losses, teacher. Settings come from our
options, so that only the implementation differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models import utils
from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from lightly.models.utils import update_momentum
from lightly.transforms import DINOTransform, MAETransform
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from scaling.algorithms.closed_forms import decoder_size
from scaling.algorithms.dinov2 import DINOv2
from scaling.data.order import step_seed
from scaling.data.source import Images
from scaling.data.views import MEAN, STD, normalise
from scaling.models.shape import Shape
from scaling.options import DinoV2Options, MaeOptions
from scaling.parallel import Draws

NORMALISED = {"mean": [MEAN] * 3, "std": [STD] * 3}


def masked_vit(shape: Shape, *, timm_init: bool, **more: Any) -> MaskedVisionTransformerTIMM:
    vit = VisionTransformer(
        img_size=shape.image_size,
        patch_size=shape.patch_size,
        in_chans=shape.channels,
        num_classes=0,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        global_pool="",
        **more,
    )
    return MaskedVisionTransformerTIMM(vit=vit, weight_initialization="skip" if timm_init else "")


class Backbone(nn.Module):
    """Images -> tokens, what our probes ask of an encoder."""

    def __init__(self, body: MaskedVisionTransformerTIMM) -> None:
        super().__init__()
        self.body = body

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.body.encode(images_BCHW)


class LightlyMae(nn.Module):
    def __init__(self, shape: Shape, options: MaeOptions, *, timm_init: bool) -> None:
        super().__init__()
        width, depth, heads = decoder_size(shape, options)
        self.options, self.shape = options, shape
        self.backbone = masked_vit(shape, timm_init=timm_init)
        self.probed = Backbone(self.backbone)
        self.embed = nn.Linear(shape.width, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=shape.n_patches, embed_dim=width, depth=depth, num_heads=heads
        )
        self.predict = nn.Linear(width, shape.patch_values)
        for layer in (self.embed, self.predict):  # as their decoder, of which these were parts before 1.6, does
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.transform = MAETransform(
            input_size=shape.image_size, min_scale=options.crop_scale[0], normalize=NORMALISED
        )

    def views(self, images: Images, step: int) -> list[Tensor]:
        return [torch.stack([self.transform(picture)[0] for picture in pictures(images)])]

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        (images,) = views
        size = (len(images), self.backbone.sequence_length)
        keep, mask = utils.random_token_mask(size=size, mask_ratio=self.options.mask_ratio)
        embedded = self.embed(self.backbone.encode(images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        decoded = self.decoder(utils.set_at_index(tokens, keep, embedded.type_as(tokens)))
        predicted = self.predict(utils.get_at_index(decoded, mask))
        target = utils.get_at_index(utils.patchify(images, self.shape.patch_size), mask - 1)
        if self.options.norm_pixels:
            target = utils.normalize_mean_var(target)
        return nn.functional.mse_loss(predicted, target)

    def before_update(self, progress: float) -> None:
        """Nothing."""

    def after_step(self, step: int, n_steps: int) -> None:
        """Nothing."""


class LightlyDino(nn.Module):
    def __init__(self, shape: Shape, options: DinoV2Options, *, timm_init: bool, seed: int, their_views: bool) -> None:
        super().__init__()
        self.options, self.seed = options, seed
        self.mask_grid = (options.global_size or shape.image_size) // shape.patch_size
        self.student, self.head = self._branch(shape, options, timm_init)
        self.teacher = nn.ModuleList(self._branch(shape, options, timm_init)).requires_grad_(False)
        self.teacher.load_state_dict(nn.ModuleList([self.student, self.head]).state_dict())
        self.probed = Backbone(cast(MaskedVisionTransformerTIMM, self.teacher[0]))
        same = {"output_dim": options.prototypes, "student_temp": options.student_temp}
        self.dino, self.ibot = DINOLoss(**same), IBOTPatchLoss(**same)
        self.koleo = KoLeoLoss()
        scaled = [sigma * (options.global_size or shape.image_size) / 224 for sigma in (0.1, 2.0)]
        self.transform = DINOTransform(
            global_crop_size=options.global_size or shape.image_size,
            global_crop_scale=options.global_scale,
            local_crop_size=options.local_size or shape.image_size // 2,
            local_crop_scale=options.local_scale,
            n_local_views=options.n_local,
            sigmas=(scaled[0], scaled[1]),
            normalize=NORMALISED,
        )
        self.ours = None if their_views else DINOv2(shape, options).requires_grad_(False)

    @staticmethod
    def _branch(
        shape: Shape, o: DinoV2Options, timm_init: bool
    ) -> tuple[MaskedVisionTransformerTIMM, DINOProjectionHead]:
        head = DINOProjectionHead(shape.width, o.head_hidden, o.head_bottleneck, o.prototypes, freeze_last_layer=1)
        return masked_vit(shape, timm_init=timm_init, dynamic_img_size=True), head

    def views(self, images: Images, step: int) -> list[Tensor]:
        if self.ours is None:
            return [torch.stack(view) for view in zip(*map(self.transform, pictures(images)), strict=True)]
        draws = Draws(torch.Generator().manual_seed(step_seed(self.seed, step)))
        crops = self.ours.crops(normalise(torch.from_numpy(images)), draws)
        return [view for each in crops for view in each.split(len(images))]

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        o, crops_G, crops_L = self.options, torch.cat(views[:2]), torch.cat(views[2:])
        start, end = o.teacher_temp
        temperature = start + (end - start) * min(1.0, progress / o.teacher_temp_warmup)
        # A block has at least 4 patches by default, which no crop of 25 patches with a tenth of them masked can have.
        blocks = utils.random_block_mask(
            (len(crops_G), self.mask_grid, self.mask_grid),
            batch_mask_ratio=o.mask_probability,
            min_image_mask_ratio=o.mask_range[0],
            max_image_mask_ratio=o.mask_range[1],
            min_num_masks_per_block=1,
        )
        mask = nn.functional.pad(blocks.flatten(1), (1, 0))
        encoder, head = self.teacher
        with torch.no_grad():
            tokens = encoder.encode(crops_G)
            to_dino, to_ibot = head(tokens[:, 0]), head(tokens[mask])
        tokens = self.student.encode(crops_G, mask=mask)
        from_dino = torch.cat([self.head(tokens[:, 0]), self.head(self.student.encode(crops_L)[:, 0])])
        dino = self.dino(list(to_dino.chunk(2)), list(from_dino.chunk(len(views))), teacher_temp=temperature)
        ibot = self.ibot(to_ibot, self.head(tokens[mask]), mask=blocks, teacher_temp=temperature)
        koleo = sum(self.koleo(crops) for crops in tokens[:, 0].chunk(2))
        return o.dino_weight * dino + o.ibot_weight * ibot + o.koleo_weight * koleo

    def before_update(self, progress: float) -> None:
        self.head.cancel_last_layer_gradients(0 if progress < self.options.freeze_last_layer else 1)

    def after_step(self, step: int, n_steps: int) -> None:
        momentum = cosine_schedule(step, n_steps, *self.options.ema)
        for student, teacher in zip((self.student, self.head), self.teacher, strict=True):
            update_momentum(student, teacher, momentum)


def pictures(images: Images) -> Iterator[Image.Image]:
    return (Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in images)
