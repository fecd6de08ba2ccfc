"""What a YAML may say about a source of images, as `options.py` has it of algorithms. Row 1."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from scaling.options import BY_TYPE, Options, Other, TaskKind, Text


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

    kind: TaskKind
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
