"""What a YAML may say about an algorithm, a source or a probe: one frozen, strict class each, defaults with sources.

Row 1. Kept away from the code that uses them, because reading a sweep must not import torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
BY_TYPE = Discriminator(lambda value: "<text>" if isinstance(value, str) else "<other>")
"""Of two branches, one text: only the errors of the branch that was meant are shown."""
Text = Tag("<text>")
Other = Tag("<other>")


class Options(BaseModel):
    """Base of everything a YAML can say: unknown keys and wrong types are refused, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- algorithms -------------------------------------------------------------------------------------------------


class LearningRate(Options):
    """Peak learning rate = base x (batch_size / ref_batch), or its square root, or base itself."""

    base: Positive
    rule: Literal["linear", "sqrt", "constant"] = "linear"
    ref_batch: int = Field(default=256, gt=0)

    def resolve(self, batch_size: int) -> float:
        ratio = batch_size / self.ref_batch
        factor: dict[str, float] = {"linear": ratio, "sqrt": ratio**0.5, "constant": 1.0}
        return self.base * factor[self.rule]


class Recipe(Options):
    """AdamW with linear warm-up and cosine decay. Schedules are fractions of the run, so all data sizes share them."""

    lr: LearningRate
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """At the start; not applied to biases, norms and tokens."""
    weight_decay_end: Annotated[float, Field(ge=0)] | None = None
    """At the end, reached by a cosine; null keeps the start value."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    warmup: Fraction = 0.1
    """Share of the steps with rising learning rate."""
    final_lr: Fraction = 0.0
    """Last learning rate as a share of the peak."""
    clip_grad: Positive | None = None
    """Largest gradient norm; null does not clip."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0


class MaeOptions(Recipe):
    """Masked autoencoder (He et al. 2022, arXiv 2111.06377); defaults of its PRETRAIN.md, decoder `light` apart."""

    lr: LearningRate = LearningRate(base=1.5e-4)
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    decoder: Literal["paper", "light"] = "light"
    """paper: 512 wide, 8 blocks, 16 heads (94 % of the FLOPs of a ViT-Tiny); light: the encoder's width, 2 blocks."""
    norm_pixels: bool = True
    """Predict each patch's pixels in units of that patch's mean and standard deviation."""
    crop_scale: tuple[Fraction, Fraction] = (0.2, 1.0)
    """Area of the random crop as a share of the image."""


class DinoV2Options(Recipe):
    """DINO + iBOT + KoLeo (Oquab et al. 2023, arXiv 2304.07193); defaults of its ssl_default_config.yaml."""

    lr: LearningRate = LearningRate(base=4e-3, rule="sqrt", ref_batch=1024)
    weight_decay: Annotated[float, Field(ge=0)] = 0.04
    weight_decay_end: Annotated[float, Field(ge=0)] | None = 0.4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip_grad: Positive | None = 3.0
    prototypes: int = Field(default=65536, ge=2)
    """Outputs of the DINO and iBOT heads, which are tied as in the reference default."""
    head_hidden: int = Field(default=2048, ge=1)
    head_bottleneck: int = Field(default=256, ge=1)
    n_local: int = Field(default=8, ge=0)
    """Small crops per image, beside the two global ones."""
    global_size: int | None = Field(default=None, gt=0)
    """Pixels of the two global crops; null = the image's."""
    local_size: int | None = Field(default=None, gt=0)
    """Pixels; null = half the image, rounded up to whole patches."""
    global_scale: tuple[Fraction, Fraction] = (0.32, 1.0)
    local_scale: tuple[Fraction, Fraction] = (0.05, 0.32)
    mask_probability: Fraction = 0.5
    """Share of the global crops whose patches are masked for iBOT."""
    mask_range: tuple[Fraction, Fraction] = (0.1, 0.5)
    """Share of masked patches in such a crop, spread evenly over the batch."""
    dino_weight: Annotated[float, Field(ge=0)] = 1.0
    ibot_weight: Annotated[float, Field(ge=0)] = 1.0
    koleo_weight: Annotated[float, Field(ge=0)] = 0.1
    centering: Literal["mean", "sinkhorn"] = "mean"
    student_temp: Positive = 0.1
    teacher_temp: tuple[Positive, Positive] = (0.04, 0.07)
    """Start and end of the linear warm-up over the first 30 % of the run."""
    ema: tuple[Fraction, Fraction] = (0.992, 1.0)
    """Teacher momentum, from the first value to the second by a cosine."""
    freeze_last_layer: Fraction = 0.01
    """Share of the run in which the prototypes do not move (1 of 100 epochs in the reference)."""


class BaselineOptions(Options):
    """Baselines have nothing to set."""


# --- sources ----------------------------------------------------------------------------------------------------


class SourceOptions(Options):
    image_size: int = Field(gt=0)
    """Pixels, height = width."""
    channels: Literal[1, 3] = 1


class PhantomsOptions(SourceOptions):
    """Synthetic images of five modalities, drawn when needed."""

    source: Literal["phantoms"]
    image_size: int = Field(default=32, ge=16, le=512)
    pool_size: int = Field(default=100_000, gt=0)
    """Images on offer for pretraining; only those chosen are drawn."""
    seed: int = Field(default=0, ge=0)
    n_train: int = Field(default=512, ge=8)
    """Training images of each task."""
    n_val: int = Field(default=256, ge=8)
    n_test: int = Field(default=1024, ge=8)


SplitName = Literal["train", "val", "test"]


class NpzTask(Options):
    """Makes a labelled pack a downstream task."""

    kind: Literal["binary", "multi-class", "multi-label", "ordinal"]
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Null takes the file's name without its ending."""
    modality: str | None = None
    """Needed when the pack's classes are of several modalities: one that the task is about, or `mixed`."""


class NpzPack(Options):
    """One file in MedMNIST's layout: {train,val,test}_{images,labels}."""

    modality: Annotated[Annotated[str, Text] | Annotated[dict[str, str], Other], BY_TYPE]
    """Of all its images, or per class (by number, or by name where the file carries `classes`)."""
    pretrain: list[SplitName] = []
    """Splits whose images may be pretrained on."""
    task: NpzTask | None = None

    @model_validator(mode="after")
    def _used(self) -> NpzPack:
        if not self.pretrain and self.task is None:
            raise PydanticCustomError("unused", "is neither pretrained on nor a task; give `pretrain:` or `task:`")
        if "test" in self.pretrain and self.task is not None:
            raise PydanticCustomError(
                "leak", "pretrains on the test split of its own task; allowed: train, val, or drop `task:`"
            )
        return self


class NpzOptions(SourceOptions):
    """Labelled image packs on disk."""

    source: Literal["npz"]
    root: str | None = None
    """Folder of the files; null takes --data-root or $SCALING_DATA_ROOT."""
    files: dict[str, NpzPack] = Field(min_length=1)
    """File name -> what it holds."""


# --- probes -----------------------------------------------------------------------------------------------------


class LinearOptions(Options):
    """L2-regularised logistic regression on standardised features."""

    c_min: Positive = 1e-4
    """Strongest regularisation tried: the smallest inverse L2 strength C."""
    c_max: Positive = 1e2
    n_c: int = Field(default=7, ge=1)
    """Values of C tried, evenly spaced in its logarithm; the validation AUC chooses."""

    @model_validator(mode="after")
    def _ordered(self) -> LinearOptions:
        if self.c_min > self.c_max:
            raise PydanticCustomError("order", "c_min is above c_max; give c_min <= c_max")
        return self


class KnnOptions(Options):
    """Weighted nearest neighbours by cosine similarity (DINO's protocol)."""

    k: int = Field(default=20, ge=1)
    temperature: Positive = 0.07
