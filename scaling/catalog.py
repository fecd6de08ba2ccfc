"""Everything a YAML can name, one row each: name -> where its class lives and what can be set.

Row 1. Targets are strings, so that looking a name up imports neither torch nor the member itself.
To add a member: one file with its class, its options in `options.py`, one row here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from scaling import options, probe_options
from scaling.errors import unknown
from scaling.medical_reader_options import DicomOptions, NiftiOptions
from scaling.reader_options import FolderOptions, HuggingfaceOptions, NpzReaderOptions, TableOptions, WebdatasetOptions
from scaling.source_options import MedmnistOptions, NpzOptions, PhantomsOptions, StoreOptions

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    target: str
    """"module:Class", imported when first needed."""
    options: type[options.Options]
    about: str
    version: int = 1
    """Raised by hand when the same options begin to mean another computation; part of a run's identity."""
    cost: str = ""
    """"module:function" of an algorithm's closed form, in a module that imports no torch."""

    def load(self) -> Any:
        return _load(self.target)

    def load_cost(self) -> Any:
        """(Shape, options) -> Cost."""
        return _load(self.cost)


def _load(target: str) -> Any:
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Size:
    """One rung of the model ladder. MLP ratio 4 throughout, as in every ViT of the cited tables."""

    width: int
    depth: int
    heads: int
    origin: str


MODELS: Mapping[str, Size] = MappingProxyType(
    {
        # Below ViT-Tiny no standard rungs exist: ours grow width and depth together, about 2.5x parameters a rung.
        "vit_atto": Size(32, 4, 2, "ours, 0.05 M"),
        "vit_femto": Size(48, 4, 3, "ours, 0.12 M"),
        "vit_pico": Size(64, 6, 4, "ours, 0.3 M"),
        "vit_nano": Size(96, 8, 3, "ours, 0.9 M"),
        "vit_micro": Size(128, 12, 4, "ours, 2.4 M"),
        "vit_ti": Size(192, 12, 3, "Touvron et al. 2021 (arXiv 2012.12877), table 1"),
        "vit_s": Size(384, 12, 6, "Touvron et al. 2021 (arXiv 2012.12877), table 1"),
        "vit_m": Size(512, 12, 8, "Steiner et al. 2021 code (big_vision, models/vit.py)"),
        "vit_b": Size(768, 12, 12, "Dosovitskiy et al. 2021 (arXiv 2010.11929), table 1"),
        "vit_l": Size(1024, 24, 16, "Dosovitskiy et al. 2021 (arXiv 2010.11929), table 1"),
        "vit_h": Size(1280, 32, 16, "Dosovitskiy et al. 2021 (arXiv 2010.11929), table 1"),
    }
)

ALGORITHMS: Mapping[str, Entry] = MappingProxyType(
    {
        "mae": Entry(
            "scaling.algorithms.mae:MAE",
            options.MaeOptions,
            "masked autoencoder, normalised pixels",
            cost="scaling.algorithms.closed_forms:mae",
        ),
        "dinov2": Entry(
            "scaling.algorithms.dinov2:DINOv2",
            options.DinoV2Options,
            "DINO + iBOT + KoLeo, EMA teacher",
            cost="scaling.algorithms.closed_forms:dinov2",
        ),
        "dino": Entry(
            "scaling.algorithms.dinov2:DINOv2",
            options.DinoOptions,
            "self-distillation of class tokens across crops, EMA teacher",
            cost="scaling.algorithms.closed_forms:dinov2",
        ),
        "ibot": Entry(
            "scaling.algorithms.dinov2:DINOv2",
            options.IbotOptions,
            "DINO + masked patches, one head, EMA teacher",
            cost="scaling.algorithms.closed_forms:dinov2",
        ),
        "simclr": Entry(
            "scaling.algorithms.simclr:SimCLR",
            options.SimClrOptions,
            "two views attract, all others repel",
            cost="scaling.algorithms.closed_forms:simclr",
        ),
        "mocov3": Entry(
            "scaling.algorithms.mocov3:MoCoV3",
            options.MocoV3Options,
            "queries find their keys, momentum encoder",
            cost="scaling.algorithms.closed_forms:mocov3",
        ),
        "ijepa": Entry(
            "scaling.algorithms.ijepa:IJEPA",
            options.IJepaOptions,
            "predicts a teacher's tokens of hidden blocks",
            version=2,  # crops are no longer flipped
            cost="scaling.algorithms.closed_forms:ijepa",
        ),
        "lejepa": Entry(
            "scaling.algorithms.lejepa:LeJEPA",
            options.LeJepaOptions,
            "views predict their mean, embeddings kept normal, no teacher",
            cost="scaling.algorithms.closed_forms:lejepa",
        ),
        "supervised": Entry(
            "scaling.algorithms.supervised:Supervised",
            options.SupervisedOptions,
            "upper reference: the labels of the tasks' training splits",
            cost="scaling.algorithms.closed_forms:supervised",
        ),
        "random": Entry(
            "scaling.algorithms.baselines:Random",
            options.BaselineOptions,
            "encoder at initialisation",
            cost="scaling.algorithms.closed_forms:random",
        ),
        "pixels": Entry(
            "scaling.algorithms.baselines:Pixels",
            options.BaselineOptions,
            "the image itself",
            cost="scaling.algorithms.closed_forms:pixels",
        ),
    }
)

SOURCES: Mapping[str, Entry] = MappingProxyType(
    {
        "phantoms": Entry(
            "scaling.data.phantoms:Phantoms",
            PhantomsOptions,
            "synthetic, five modalities or up to eleven, tasks of known need of scale",
        ),
        "npz": Entry("scaling.data.npz:Npz", NpzOptions, "packs in MedMNIST's layout"),
        "store": Entry("scaling.data.store:Store", StoreOptions, "what `scaling data import` made ready"),
        "medmnist": Entry(
            "scaling.data.medmnist:Medmnist", MedmnistOptions, "MedMNIST's own files, known by their MD5"
        ),
    }
)

READERS: Mapping[str, Entry] = MappingProxyType(
    {
        # the options' `reader: Literal["name"]` tells them apart, as `source` does among SOURCES
        "folder": Entry(
            "scaling.importing.folder:Folder", FolderOptions, "PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000 files"
        ),
        "npz": Entry("scaling.importing.npz:Npz", NpzReaderOptions, "packs in MedMNIST's layout, 2D and 3D"),
        "table": Entry("scaling.importing.table:Table", TableOptions, "CSV, TSV or Parquet with paths and labels"),
        "webdataset": Entry("scaling.importing.webdataset:Webdataset", WebdatasetOptions, "tar shards"),
        "huggingface": Entry(
            "scaling.importing.huggingface:Huggingface", HuggingfaceOptions, "Parquet with the images in it"
        ),
        "dicom": Entry("scaling.importing.dicom:Dicom", DicomOptions, "DICOM files, with or without their ending"),
        "nifti": Entry("scaling.importing.nifti:Nifti", NiftiOptions, "slices of NIfTI volumes"),
    }
)

PROBES: Mapping[str, Entry] = MappingProxyType(
    {
        # version 2: features kept in fp16; linear: all strengths at once, each to a gradient of 1e-5
        "linear": Entry("scaling.probes.linear:Linear", probe_options.LinearOptions, "logistic regression", version=2),
        "knn": Entry("scaling.probes.knn:Knn", probe_options.KnnOptions, "weighted nearest neighbours", version=2),
        "ridge": Entry("scaling.probes.ridge:Ridge", probe_options.RidgeOptions, "ridge regression, closed form"),
        "biovfm": Entry(
            "scaling.probes.biovfm:Biovfm", probe_options.BiovfmOptions, "the reference study's trained head"
        ),
    }
)

LAUNCHERS: Mapping[str, Entry] = MappingProxyType(
    {
        "ray": Entry("scaling.launch.ray:RayLauncher", options.Options, "processes under Ray, here or on a cluster"),
        "local": Entry("scaling.launch.local:LocalLauncher", options.Options, "processes on this machine, without Ray"),
        "inline": Entry("scaling.launch.inline:InlineLauncher", options.Options, "this process, one run at a time"),
    }
)


def look_up(kind: str, table: Mapping[str, T], name: str) -> T:
    """The row of `name`; KeyError with the nearest and all known names otherwise."""
    if name not in table:
        raise KeyError(unknown(kind, name, table))
    return table[name]
