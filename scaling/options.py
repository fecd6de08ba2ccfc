"""What a YAML may say about an algorithm: one frozen, strict class each, defaults with sources.

Row 1. Kept away from the code that uses them, because reading a sweep must not import torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
BY_TYPE = Discriminator(lambda value: "<text>" if isinstance(value, str) else "<other>")
"""Of two branches, one text: only the errors of the branch that was meant are shown."""
Text = Tag("<text>")
Other = Tag("<other>")


def later(default: Any) -> Any:
    """Field of an option that came later: written out only where it is not at its default, so that the fingerprints of
    runs from before it still hold."""
    return Field(default=default, exclude_if=lambda value: value == default)


class Options(BaseModel):
    """Base of everything a YAML can say: unknown keys and wrong types are refused, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- algorithms -------------------------------------------------------------------------------------------------


class LearningRate(Options):
    """Peak learning rate = base x (batch_size / ref_batch), or its square root, or base itself."""

    base: Positive
    """Peak where the rule scales nothing: at `ref_batch`."""
    rule: Literal["linear", "sqrt", "constant"] = "linear"
    """What the batch size does to the peak: in proportion to it, to its square root, or nothing."""
    ref_batch: int = Field(default=256, gt=0)
    """Batch size at which the peak is `base`."""

    def resolve(self, batch_size: int) -> float:
        ratio = batch_size / self.ref_batch
        factor: dict[str, float] = {"linear": ratio, "sqrt": ratio**0.5, "constant": 1.0}
        return self.base * factor[self.rule]


class Recipe(Options):
    """AdamW with linear warm-up and cosine decay. Schedules are fractions of the run, so all data sizes share them."""

    recipe: str | None = later(None)
    """Of `scaling catalog recipes`: its values for the run stand for the defaults of what is not given beside it."""
    lr: LearningRate
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """At the start; not applied to biases, norms and tokens."""
    weight_decay_end: Annotated[float, Field(ge=0)] | None = None
    """At the end, reached by a cosine; null keeps the start value."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's, of the running means of gradients and of their squares."""
    warmup: Fraction = 0.1
    """Share of the steps with rising learning rate."""
    final_lr: Fraction = 0.0
    """Last learning rate as a share of the peak."""
    clip_grad: Positive | None = None
    """Largest gradient norm; null does not clip."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance that an image skips a branch of the last block, rising to it from none in the first."""


class MaeOptions(Recipe):
    """Masked autoencoder (He et al. 2022, arXiv 2111.06377); defaults of its PRETRAIN.md, decoder `light` apart."""

    lr: LearningRate = LearningRate(base=1.5e-4)
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Share of the patches that the encoder does not see."""
    decoder: Literal["paper", "light"] = "light"
    """paper: 512 wide, 8 blocks, 16 heads (94 % of the FLOPs of a ViT-Tiny); light: the encoder's width, 2 blocks."""
    first_weights: Literal["timm", "xavier"] = later("timm")
    """Of the encoder's blocks: normal of deviation 0.02 as in every algorithm here, or the reference MAE's."""
    norm_pixels: bool = True
    """Predict each patch's pixels in units of that patch's mean and standard deviation."""
    crop_scale: tuple[Fraction, Fraction] = (0.2, 1.0)
    """Area of the random crop as a share of the image."""


class IbotHead(Options):
    """A head of iBOT's own, and its prototypes; defaults of DINOv2's vitl14.yaml."""

    prototypes: int = Field(default=131072, ge=2)
    """Outputs."""
    hidden: int = Field(default=2048, ge=1)
    """Width of its two hidden layers."""
    bottleneck: int = Field(default=256, ge=1)
    """Width of the unit sphere on which prototypes are compared."""


Off = Annotated[float, Field(ge=0, le=0)]
"""Weight of a term that the algorithm of this name does not have; `dinov2` takes any combination."""


class DinoV2Options(Recipe):
    """DINO + iBOT + KoLeo (Oquab et al. 2023, arXiv 2304.07193); defaults of its ssl_default_config.yaml."""

    lr: LearningRate = LearningRate(base=4e-3, rule="sqrt", ref_batch=1024)
    weight_decay: Annotated[float, Field(ge=0)] = 0.04
    weight_decay_end: Annotated[float, Field(ge=0)] | None = 0.4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip_grad: Positive | None = 3.0
    prototypes: int = Field(default=65536, ge=2)
    """Outputs of the head."""
    head_hidden: int = Field(default=2048, ge=1)
    """Width of the head's two hidden layers."""
    head_bottleneck: int = Field(default=256, ge=1)
    """Width of the unit sphere on which prototypes are compared."""
    ibot_head: Annotated[Annotated[Literal["tied"], Text] | Annotated[IbotHead, Other], BY_TYPE] = later("tied")
    """tied: iBOT uses DINO's head, as in the reference default; else the sizes of a head of its own."""
    n_local: int = Field(default=8, ge=0)
    """Small crops per image, beside the two global ones; DINO alone uses them."""
    global_size: int | None = Field(default=None, gt=0)
    """Pixels of the two global crops; null = the image's."""
    local_size: int | None = Field(default=None, gt=0)
    """Pixels; null = half the image, rounded up to whole patches."""
    global_scale: tuple[Fraction, Fraction] = (0.32, 1.0)
    """Area of a global crop as a share of the image."""
    local_scale: tuple[Fraction, Fraction] = (0.05, 0.32)
    """Area of a local crop as a share of the image."""
    mask_probability: Fraction = 0.5
    """Share of the global crops whose patches are masked for iBOT."""
    mask_range: tuple[Fraction, Fraction] = (0.1, 0.5)
    """Share of masked patches in such a crop, spread evenly over the batch."""
    dino_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the class tokens' cross entropy. Nothing of a term without weight is built or computed."""
    ibot_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the masked patches' cross entropy."""
    koleo_weight: Annotated[float, Field(ge=0)] = 0.1
    """Of the entropy that spreads class tokens apart."""
    centering: Literal["mean", "sinkhorn"] = "mean"
    """How no prototype takes all: by a running mean of the teacher's logits, or by Sinkhorn's algorithm."""
    student_temp: Positive = 0.1
    """Of the student's softmax."""
    teacher_temp: tuple[Positive, Positive] = (0.04, 0.07)
    """Start and end of its linear warm-up."""
    teacher_temp_warmup: Fraction = later(0.3)
    """Share of the run in which the teacher's temperature rises (30 of 100 epochs in the reference)."""
    ema: tuple[Fraction, Fraction] = (0.992, 1.0)
    """Teacher momentum, from the first value to the second by a cosine."""
    freeze_last_layer: Fraction = 0.01
    """Share of the run in which the prototypes do not move (1 of 100 epochs in the reference)."""
    drop_path_rule: Literal["linear", "uniform"] = later("linear")
    """linear: from 0 in the first block to `drop_path` in the last, as timm; uniform: the same in all."""
    layer_scale: Positive | None = later(None)
    """Start of the learned factors of what attention and MLP add, one a channel; null has none."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = later(1.0)
    """A block learns at this share of the next one's rate, the last at this share of the peak; heads at the peak."""
    patch_lr: Positive = later(1.0)
    """Factor of the patch projection's learning rate, beside `layer_decay`."""

    @model_validator(mode="after")
    def _trains(self) -> DinoV2Options:
        if not self.dino_weight and not self.ibot_weight:
            raise PydanticCustomError("idle", "has neither DINO's nor iBOT's loss; give dino_weight or ibot_weight")
        if self.ibot_head != "tied" and not (self.dino_weight and self.ibot_weight):
            raise PydanticCustomError(
                "idle", "gives iBOT a head of its own where a loss has no weight; allowed: ibot_head: tied"
            )
        return self


class DinoOptions(DinoV2Options):
    """DINO (Caron et al. 2021, arXiv 2104.14294); defaults of dino@04c0ad9:main_dino.py, its batch 512.

    There EMA starts at 0.9995 for batches of 256.
    """

    lr: LearningRate = LearningRate(base=5e-4)
    final_lr: Fraction = 0.001
    """1e-6 of the peak 1e-3."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    global_scale: tuple[Fraction, Fraction] = (0.4, 1.0)
    local_scale: tuple[Fraction, Fraction] = (0.05, 0.4)
    ibot_weight: Off = 0.0
    koleo_weight: Off = 0.0
    teacher_temp: tuple[Positive, Positive] = (0.04, 0.04)
    ema: tuple[Fraction, Fraction] = (0.996, 1.0)


class IbotOptions(DinoV2Options):
    """iBOT (Zhou et al. 2022, arXiv 2111.07832): DINO and masked patches, one head; the ViT-S of ibot@030ffe4:README.

    Mask ratio 0.3 +- 0.2 in half of the crops. Warm-up, frozen prototypes and decay: main_ibot.py.
    """

    lr: LearningRate = LearningRate(base=5e-4)
    final_lr: Fraction = 0.0005
    """1e-6 of the peak 2e-3 at batch 1024."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    prototypes: int = Field(default=8192, ge=2)
    n_local: int = Field(default=10, ge=0)
    global_scale: tuple[Fraction, Fraction] = (0.25, 1.0)
    local_scale: tuple[Fraction, Fraction] = (0.05, 0.25)
    koleo_weight: Off = 0.0
    ema: tuple[Fraction, Fraction] = (0.996, 1.0)


class SimClrOptions(Recipe):
    """SimCLR (Chen et al. 2020, arXiv 2002.05709); defaults of its README's ImageNet run (google-research/simclr).

    Its optimiser is LARS for ResNets; AdamW and its values are those of MoCo v3's ViTs (CONFIG.md), for want of others.
    """

    lr: LearningRate = LearningRate(base=1.5e-4)
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    temperature: Positive = 0.1
    """0.5 in its CIFAR-10 run."""
    projector_layers: int = Field(default=2, ge=1)
    """Linear layers."""
    projector_hidden: int = Field(default=2048, ge=1)
    """There the width of a ResNet-50's features; the same for every encoder, as MoCo v3's."""
    projector_width: int = Field(default=128, ge=1)
    """Of the embeddings compared."""
    crop_scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Area of the random crop as a share of the image."""
    colour_strength: Annotated[float, Field(ge=0, le=1.25)] = 1.0
    """Brightness, contrast and saturation +-0.8, hue +-0.2 turns at 1; 0.5 in its CIFAR-10 run."""


class MocoV3Options(Recipe):
    """MoCo v3 (Chen et al. 2021, arXiv 2104.02057); defaults of moco-v3@c349e6e:CONFIG.md and main_moco.py for ViTs."""

    lr: LearningRate = LearningRate(base=1.5e-4)
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    warmup: Fraction = 0.133
    """40 of 300 epochs."""
    temperature: Positive = 0.2
    """Of the contrast between keys."""
    head_hidden: int = Field(default=4096, ge=1)
    """Of the projector, three layers, and of the predictor, two."""
    head_width: int = Field(default=256, ge=1)
    """Of queries and keys."""
    ema: tuple[Fraction, Fraction] = (0.99, 1.0)
    """Momentum of the encoder of keys, from the first value to the second by a cosine."""
    freeze_patches: bool = True
    """The patch projection stays at its random start, for stability (section 4.3)."""
    crop_scale: tuple[Fraction, Fraction] = (0.2, 1.0)
    """Area of the random crop as a share of the image."""


class IJepaOptions(Recipe):
    """I-JEPA (Assran et al. 2023, arXiv 2301.08243); defaults of ijepa@52c1ae9:configs/in1k_vith14_ep300.yaml."""

    lr: LearningRate = LearningRate(base=1e-3, rule="sqrt", ref_batch=2048)
    """The reference has one batch size alone: the rule is a guess."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.04
    weight_decay_end: Annotated[float, Field(ge=0)] | None = 0.4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    warmup: Fraction = 0.13
    final_lr: Fraction = 1e-3
    predictor: Literal["paper", "light"] = "light"
    """paper: 384 wide, 6 blocks for encoders of up to 12 and 12 for deeper ones (section A.1); light: half the
    encoder's width and depth, which is the paper's for ViT-B. Heads are the encoder's."""
    n_targets: int = Field(default=4, ge=1)
    """Blocks to predict of each image; they may overlap."""
    target_scale: Annotated[float, Field(gt=0, lt=1)] = 0.175
    """Area of each block as a share of the image: the middle of the reference's 0.15 to 0.2."""
    target_aspect: tuple[Positive, Positive] = (0.75, 1.5)
    """Height by width of a block, before rounding to whole patches."""
    context_scale: tuple[Fraction, Fraction] = (0.85, 1.0)
    """Area of the square from which the context is taken as a share of the image."""
    crop_scale: tuple[Fraction, Fraction] = (0.3, 1.0)
    """Area of the random crop as a share of the image."""
    ema: tuple[Fraction, Fraction] = (0.996, 1.0)
    """Teacher momentum, from the first value to the second in a straight line."""


class LeJepaOptions(Recipe):
    """LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544); defaults of rbalestr-lab/lejepa@a0d6745:README.md."""

    lr: LearningRate = LearningRate(base=5e-4, rule="constant")
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    warmup: Fraction = 0.01
    """One epoch of 100 in the reference."""
    final_lr: Fraction = 1e-3
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    sigreg_weight: Fraction = 0.05
    """Lambda: share of SIGReg in the loss, the prediction's is the rest."""
    n_slices: int = Field(default=1024, ge=1)
    """Random directions of a step along which embeddings are compared with a normal distribution."""
    n_knots: int = Field(default=17, ge=2)
    """Frequencies at which characteristic functions are compared, from 0 to `t_max`."""
    t_max: Positive = 3.0
    """Largest of these frequencies."""
    projector_hidden: int = Field(default=2048, ge=1)
    """Width of the projector's two hidden layers."""
    projector_width: int = Field(default=128, ge=1)
    """Of the embeddings compared."""
    n_local: int = Field(default=6, ge=0)
    """Small crops per image, beside the two global ones."""
    global_size: int | None = Field(default=None, gt=0)
    """Pixels of the two global crops; null = the image's."""
    local_size: int | None = Field(default=None, gt=0)
    """Pixels; null = half the image, rounded up to whole patches."""
    global_scale: tuple[Fraction, Fraction] = (0.3, 1.0)
    """Area of a global crop as a share of the image."""
    local_scale: tuple[Fraction, Fraction] = (0.05, 0.3)
    """Area of a local crop as a share of the image."""


TaskKind = Literal["binary", "multi-class", "multi-label", "ordinal"]


class LabelHead(Options):
    """What a supervised encoder tells of images of one task."""

    task: str
    """Its name."""
    kind: TaskKind
    """How many classes, and how many of them an image can be of."""
    n_classes: int
    """Classes, or labels for multi-label."""

    @property
    def n_label_values(self) -> int:
        return self.n_classes if self.kind == "multi-label" else 1


class LabelSet(Options):
    """The labels of a run's pretraining images."""

    identity: str
    """SHA-256 of them, in the order of the images' keys."""
    heads: tuple[LabelHead, ...]


class SupervisedOptions(Recipe):
    """The encoder trained with labels; DeiT's recipe (Touvron et al. 2021, arXiv 2012.12877, table 9) where no other
    source is named, without mixing and erasing."""

    lr: LearningRate = LearningRate(base=5e-4, ref_batch=512)
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    warmup: Fraction = 5 / 300
    final_lr: Fraction = 0.01
    """1e-5 of the peak 1e-3 at batch 1024 (deit@0282d2a:main.py)."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of classes, not of multi-label tasks."""
    crop_scale: tuple[Fraction, Fraction] = (0.4, 1.0)
    """Area of the random crop as a share of the image: DINO's large crops. A guess: DeiT's 0.08 would often cut off the
    finding that a label names."""
    pool: Literal["cls", "mean", "both"] = "both"
    """What the heads read, by default what the probes read: class token, mean of the patch tokens, or both."""
    labels: LabelSet | None = None
    """Filled in by the plan, never by a YAML: the labelled tasks of the run's images."""


class BaselineOptions(Options):
    """Baselines have nothing to set."""
