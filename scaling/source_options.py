"""What a YAML may say about a source of images, as `options.py` has it of algorithms. Row 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from scaling.errors import unknown
from scaling.medmnist_sets import IMAGES, SETS, SIZES
from scaling.options import BY_TYPE, Options, Other, TaskKind, Text, later

ROOT_VARIABLE = "SCALING_DATA_ROOT"
"""Of the environment: the folder of files where nothing else says it."""


Contaminated = Literal["exclude", "keep"]
"""What becomes of pretraining images that are (nearly) one of a task's validation or test split."""


class SourceOptions(Options):
    """What every source takes; each adds its own."""

    image_size: int = Field(gt=0)
    """Pixels, height = width."""
    channels: Literal[1, 3] = 1
    """3 makes grey images colour ones of equal channels, 1 makes colour grey."""
    tasks_from: TaskSource | None = later(None)
    """Another source, of which only the tasks are taken, in place of this one's; its images are as large as these."""
    expected: dict[str, Annotated[int, Field(gt=0)]] | None = later(None)
    """Modality -> images that may be pretrained on, as far as one knows: prices a sweep where its files are not."""

    @model_validator(mode="before")
    @classmethod
    def _alike(cls, values: Any) -> Any:
        """What `tasks_from` leaves unsaid of its images is as here."""
        if not isinstance(values, dict) or not isinstance(values.get("tasks_from"), dict):
            return values
        default = {key: field.default for key, field in cls.model_fields.items() if not field.is_required()}
        here = {key: values.get(key, default.get(key)) for key in ("image_size", "channels")}
        known = {key: value for key, value in here.items() if value is not None}
        return {**values, "tasks_from": {**known, **values["tasks_from"]}}

    @model_validator(mode="after")
    def _one_size(self) -> SourceOptions:
        other = self.tasks_from
        if other is not None:
            if other.tasks_from is not None:
                raise PydanticCustomError(
                    "ours", "takes tasks from a source that takes them from another; name that one"
                )
            for key in ("image_size", "channels"):
                if getattr(other, key) != getattr(self, key):
                    text = f"has tasks_from.{key} {getattr(other, key)}, which is not its own {getattr(self, key)}; "
                    raise PydanticCustomError(
                        "ours", "{text}", {"text": text + "one encoder reads both, so leave it out"}
                    )
        return self


DEFAULT_MODALITIES = ("ct", "xray", "mr", "ultrasound", "microscopy")
PHANTOM_MODALITIES = (*DEFAULT_MODALITIES, "fundus", "oct", "dermoscopy", "endoscopy", "histology", "test_object")


def _drawn(names: list[str]) -> list[str]:
    what = [unknown("modality", name, PHANTOM_MODALITIES) for name in names if name not in PHANTOM_MODALITIES]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        what.append(f"names {', '.join(twice)} twice; give each once")
    if not names:
        what.append(f"is empty; give 'all' or some of {', '.join(PHANTOM_MODALITIES)}")
    if what:
        raise PydanticCustomError("ours", "{text}", {"text": "; ".join(what)})
    return names


def _all(text: str) -> str:
    if text != "all":
        allowed = f"'all', or a list of some of {', '.join(PHANTOM_MODALITIES)}"
        raise PydanticCustomError("ours", "{text}", {"text": f"is {text!r}; allowed: {allowed}"})
    return text


class PhantomsOptions(SourceOptions):
    """Synthetic images, drawn when needed."""

    source: Literal["phantoms"]
    image_size: int = Field(default=32, ge=16, le=512)
    pool_size: int = Field(default=100_000, gt=0)
    """Images on offer for pretraining; only those chosen are drawn."""
    seed: int = Field(default=0, ge=0)
    """Of everything drawn."""
    n_train: int = Field(default=512, ge=8)
    """Training images of each task."""
    n_val: int = Field(default=256, ge=8)
    """Validation images of each task."""
    n_test: int = Field(default=1024, ge=8)
    """Test images of each task."""
    modalities: Annotated[
        Annotated[str, AfterValidator(_all), Text] | Annotated[list[str], AfterValidator(_drawn), Other],
        BY_TYPE,
    ] = later(list(DEFAULT_MODALITIES))
    """Those that are drawn, in proportion to their shares; tasks are theirs."""
    latents: Annotated[int, Field(ge=1, le=64)] | None = later(None)
    """Free numbers behind an image's anatomy, which bounds the intrinsic dimension; the grain is then the same in all
    images. Null leaves every number of the anatomy free, and the grain."""
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = later(0.0)
    """Share of labels that are wrong, at random: any other class; of several labels each by itself."""
    noisy_splits: Literal["all", "train"] = later("all")
    """all: also in what tasks are judged by, as where annotators err, so that AUC has a ceiling below 1; train: only in
    what is learned from."""


SplitName = Literal["train", "val", "test"]


class NpzTask(Options):
    """Makes a labelled pack a downstream task."""

    kind: TaskKind
    """How many classes, and how many of them an image can be of."""
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
    contaminated: Contaminated = "exclude"
    """Whether to pretrain on images that are (nearly) one of a task's validation or test split."""


class StoreOptions(SourceOptions):
    """A store made by `scaling data import`."""

    source: Literal["store"]
    path: str
    """The store's folder."""
    image_size: int = Field(gt=0)
    """The store's or smaller: means over areas."""
    sources: Annotated[Annotated[Literal["all"], Text] | Annotated[list[str], Field(min_length=1), Other], BY_TYPE] = (
        "all"
    )
    """Sources of the store that are pretrained on: their images of no split, and of training splits."""
    tasks: Annotated[Annotated[Literal["all"], Text] | Annotated[list[str], Other], BY_TYPE] = "all"
    """Tasks of any source of the store; all: those that have all three splits."""
    contaminated: Contaminated = "exclude"
    """Whether to pretrain on images that are (nearly) one of a task's validation or test split."""


def _set(name: str) -> str:
    if name not in SETS:
        raise PydanticCustomError("ours", "{text}", {"text": unknown("set", name, SETS)})
    return name


SetName = Annotated[str, AfterValidator(_set)]


class MedmnistOptions(SourceOptions):
    """MedMNIST's own files, each known by its MD5 (`scaling/medmnist_sets.py`)."""

    source: Literal["medmnist"]
    image_size: int = 28
    """Of the files, which are never resized: an image made of 28 pixels is not the same as one made for 224."""
    root: str | None = None
    """Folder of the files; null takes --data-root or $SCALING_DATA_ROOT."""
    sets: Annotated[Annotated[Literal["all"], Text] | Annotated[list[SetName], Other], BY_TYPE] = "all"
    """Each is a task; all: the twelve of images, so volumes are named."""
    pretrain: Annotated[
        Annotated[Literal["train"], Text] | Annotated[dict[SetName, list[Literal["train", "val"]]], Other], BY_TYPE
    ] = "train"
    """train: the training splits of all `sets`; else set -> splits, those not named are only probed."""
    stride: int = Field(default=4, ge=1, le=28)
    """Of volumes, every so many slices; those on which nothing is to be seen are left out."""
    contaminated: Contaminated = "exclude"
    """Whether to pretrain on images that are (nearly) one of a task's validation or test split."""
    cache: str | None = None
    """Folder for the arrays taken out of the files, as large as these; null = `unpacked` beside them."""

    @field_validator("image_size")
    @classmethod
    def _published(cls, size: int) -> int:
        if size not in SIZES:
            raise PydanticCustomError(
                "ours", "{text}", {"text": f"MedMNIST has no {size} pixels; allowed: {_of(SIZES)}"}
            )
        return size

    @model_validator(mode="after")
    def _consistent(self) -> MedmnistOptions:
        lacking = [name for name in self.names if self.image_size not in SETS[name].md5]
        if lacking:
            have = _of(SETS[lacking[0]].md5)
            text = f"{', '.join(lacking)} of volumes have no {self.image_size} pixels; allowed with them: {have}"
            raise PydanticCustomError("ours", "{text}", {"text": text})
        if not isinstance(self.pretrain, str) and (more := sorted(self.pretrain.keys() - set(self.names))):
            text = f"pretrains on {', '.join(more)}, which `sets` leaves out; name it there too"
            raise PydanticCustomError("ours", "{text}", {"text": text})
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return IMAGES if isinstance(self.sets, str) else tuple(self.sets)

    @property
    def pretrained(self) -> dict[str, list[str]]:
        """Set -> splits whose images may be pretrained on."""
        if isinstance(self.pretrain, str):
            return {name: [self.pretrain] for name in self.names}
        return {name: list(splits) for name, splits in self.pretrain.items()}


def _of(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


TaskSource = Annotated[PhantomsOptions | NpzOptions | MedmnistOptions | StoreOptions, Discriminator("source")]
"""Every source; the classes above name it before it can be."""
