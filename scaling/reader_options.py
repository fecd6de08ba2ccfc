"""What an import may say about a reader, as `options.py` has it of algorithms and sources. Row 1."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from scaling.options import BY_TYPE, Options, Other, TaskKind, Text


class ReaderOptions(Options):
    """What every reader takes; each adds its own."""

    path: str
    """Folder or file to read; relative to the import's YAML."""
    modality: Annotated[Annotated[str, Text] | Annotated[dict[str, str] | None, Other], BY_TYPE] = None
    """Of all images, or per label or folder as the reader says; null where the files themselves tell."""
    group: str | None = Field(default=None)
    """Where the patient, study or slide is found: a regular expression with one group on the id, or a column or tag
    as the reader says; null takes what the format has, else each image for itself."""
    channels: Literal[1, 3] | None = None
    """Of the stored images; null: 3 where a modality of the source is one of colour pictures, else 1."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How an oblong becomes a square: its middle, bars of black beside it, or out of proportion."""
    window: tuple[float, float] | None = None
    """Values that become 0 and 255; null takes the file's, else the modality's rule. Images of 8 bits stay as they
    are."""
    keep: list[Literal["blank", "nan"]] = []
    """Images that are set aside unless they are named here: of one grey all over; with NaN or infinite pixels, which
    then are as the lowest value."""

    @field_validator("window")
    @classmethod
    def _window_rises(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None and window[0] >= window[1]:
            raise PydanticCustomError("window", "the value that becomes 0 is below the one that becomes 255")
        return window


class TaskColumns(Options):
    """Where a task's labels stand."""

    kind: TaskKind
    """How many classes, and how many of them an image can be of; ordinal: classes with an order."""
    columns: list[str] = Field(min_length=1)
    """One, or one of 0/1 per label for multi-label."""
    classes: list[str] | None = None
    """Values of the column in the order of their codes; null takes those of the file, sorted. An empty cell is no
    label. Multi-label tasks take their columns' names."""

    @model_validator(mode="after")
    def _one_column_unless_multi_label(self) -> TaskColumns:
        if self.kind != "multi-label" and len(self.columns) != 1:
            raise PydanticCustomError(
                "columns", "a {kind} task has one column, not {n}", {"kind": self.kind, "n": len(self.columns)}
            )
        return self


class TaskField(TaskColumns):
    """Where a task's labels stand, in formats whose cells may hold several."""

    separator: str | None = None
    """Between the labels in one column of a multi-label task: `Edema|Mass` has both. An empty cell has none of them."""

    @model_validator(mode="after")
    def _one_column_to_separate(self) -> TaskField:
        if self.separator == "" or (self.separator and (self.kind != "multi-label" or len(self.columns) != 1)):
            raise PydanticCustomError("separator", "a separator is for the one column of a multi-label task")
        return self


class PictureOptions(ReaderOptions):
    """What readers of PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000 take."""

    max_pixels: int = Field(default=268_435_456, gt=0)
    """Height x width of an image; one that announces more is set aside before it takes memory."""
    frames: Literal["all", "first"] = "all"
    """Of a TIFF of several pages and of a GIF, PNG or WebP that moves; reduced copies of a page are none."""
    background: Literal["black", "white"] = "black"
    """What transparent pixels show."""


class FolderTask(Options):
    """Makes folders of images a downstream task."""

    name: str = Field(default="class", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Of the task: small letters, digits, - and _."""
    kind: Literal["binary", "multi-class", "ordinal"] = "multi-class"
    """Two classes, more, or classes with an order."""
    label: str | None = None
    """Regular expression with one group on the path that finds the class; null takes the first sub-folder on the way to
    the image, but for a split's. An image of which neither is there has no label."""
    classes: list[str] | None = None
    """In the order of their codes; null takes those found, sorted."""


class FolderOptions(PictureOptions):
    """`modality`: of all, or per pattern on the path as of a shell, the first that fits: {"ct/*": ct}. `group`:
    folder, file, or a regular expression with one group on the path; null takes each file for itself."""

    reader: Literal["folder"]
    task: FolderTask | None = None
    split: str | None = None
    """Where train, val or test, or training, valid, validation, dev, testing is found: `folder` takes the first
    sub-folder of such a name, a regular expression its one group on the path. Null: no image has a split."""


class NpzTask(Options):
    """Labels of a pack."""

    name: str
    """Of the task."""
    kind: TaskKind
    """How many classes, and how many of them an image can be of; ordinal: classes with an order."""
    classes: list[str] | None = None
    """Names in the order of the codes; null numbers them."""


class NpzReaderOptions(ReaderOptions):
    """Packs in MedMNIST's layout: `train_images`, `train_labels`, `val_images` ... Images are (n, h, w) or
    (n, h, w, 3), volumes (n, depth, h, w). `modality`: of all, or per shell pattern on the file's path. `group`: null
    takes each image, or volume, for itself; else the member beside `train_images`, such as `patients` for
    `train_patients`."""

    reader: Literal["npz"]
    tasks: dict[str, NpzTask] = {}
    """File name -> what its labels are; labels of other files are left."""
    stride: int = Field(default=1, gt=0)
    """Every n-th slice of a volume, from the first."""
    volumes: Literal["auto", "yes"] = "auto"
    """yes: arrays of shape (n, depth, h, 3) are volumes, not coloured images."""


class ColumnOptions(PictureOptions):
    """`group`: a column. `modality`: of all, or per value of `modality_column`: {CT: ct}."""

    tasks: dict[str, TaskField] = {}
    """Task -> its columns."""
    modality_column: str | None = None
    """Its values are modalities, unless `modality` translates them."""
    split: str | None = None
    """Column with train, val or test, or another usual word for them; empty is no split."""


class TableOptions(ColumnOptions):
    """CSV, TSV or Parquet with a row per image."""

    reader: Literal["table"]
    image: str = "path"
    """Column with paths, relative to `root`."""
    root: str = "."
    """Folder that the images lie in, relative to the table's. Nothing outside it is read."""


class HuggingfaceOptions(ColumnOptions):
    """Parquet files of a data set as on the Hugging Face Hub; `split: path` takes it from names like
    `test-00000-of-00001.parquet`."""

    reader: Literal["huggingface"]
    image: str | None = None
    """Column of {bytes, path} or of bytes; null takes the only one there is."""


class WebdatasetOptions(ColumnOptions):
    """Tar shards. Columns are keys of a sample's .json, with dots for nested ones, or extensions like `cls`;
    `split: path` takes it from the shard's path. `group`: such a column, or `key` for what stands in the sample's key
    before its last / or _."""

    reader: Literal["webdataset"]
    image: str | None = None
    """Extension of the image, where a sample has several; null takes the only one that is an image's."""
