"""The words of `scaling data`: what each does. Heavy imports wait inside them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.importing.importer import Imported, Survey
    from scaling.importing.request import Request

DONE = 0
FAULTS = 6
"""Most frequent ones that a dry run tells."""


def add_import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="an import's YAML; or, with the options of one source, a folder or file to read")
    parser.add_argument("--workers", type=int, help="processes that decode (default: one per core)")
    parser.add_argument("--dry-run", action="store_true", help="list what would be imported, and do nothing")
    parser.add_argument("--replace", action="store_true", help="make sources anew that are there already")
    one = parser.add_argument_group("one source, without a YAML")
    one.add_argument("--store", help="folder of the store, made if need be")
    one.add_argument("--name", help="of the source")
    one.add_argument("--reader", default="auto", help="folder, npz, table, ... (default: guessed from what is there)")
    one.add_argument(
        "--image-size", type=int, default=64, help="pixels of a stored image's side (default: %(default)s)"
    )
    one.add_argument("--modality", help="of all images: ct, mr, xray, ...")
    one.add_argument("--group", metavar="REGEX", help="patient, study or slide: what this finds in a path, or a column")
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other option of the reader, as in a YAML: `scaling catalog readers NAME` lists them",
    )


def import_(options: argparse.Namespace) -> int:
    from scaling.importing.importer import import_source
    from scaling.importing.request import surveys

    request = _request(options)
    for name, why in request.guessed.items():
        _say(f"{name}: reader {getattr(request.sources[name], 'reader')}: {why}")  # noqa: B009
    listed = surveys(request)
    for each in listed if options.dry_run else ():
        print("\n".join(_would(each)))
    for each in () if options.dry_run else listed:
        done = import_source(request.store, each, workers=options.workers, replace=options.replace)
        print("\n".join(_did(request.store, each, done)))
        options.undone = "imported beyond that"  # whatever goes wrong from here on
    return DONE


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _request(options: argparse.Namespace) -> Request:
    from scaling.errors import Problem, SpecError
    from scaling.importing.request import load, of_one

    if options.workers is None:
        options.workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    problems = list[Problem]()
    if options.workers < 1:
        problems.append(Problem(where="--workers", what=f"{options.workers} is none; give 1 or more"))
    single = {"--store": options.store, "--name": options.name}
    if not options.path.endswith((".yaml", ".yml")):
        problems += [
            Problem(where=flag, what="is missing; give it, or a YAML") for flag, it in single.items() if not it
        ]
    elif given := [
        flag for flag, it in {**single, "--modality": options.modality, "--group": options.group}.items() if it
    ]:
        problems.append(Problem(where=given[0], what="is part of the YAML; set it there"))
    values = {"path": options.path, "reader": options.reader}
    values |= {key: it for key in ("modality", "group") if (it := getattr(options, key)) is not None}
    for setting in options.set:
        key, equals, text = setting.partition("=")
        if not equals:
            problems.append(Problem(where=f"--set {setting}", what="is no KEY=VALUE"))
        values[key] = _value(text)
    if problems:
        raise SpecError(problems)
    if options.path.endswith((".yaml", ".yml")):
        return load(Path(options.path))
    return of_one(options.store, options.image_size, options.name, values)


def _value(text: str) -> Any:
    from scaling.document import Document

    return Document("--set", f"value: {text}").raw["value"]


def _would(survey: Survey) -> Iterator[str]:
    """Lines on what an import would read."""
    listing = survey.listing
    modalities = [f"{n:,} {modality}" for modality, n in listing.modalities.items()]
    if listing.n_unknown:
        modalities.append(f"{listing.n_unknown:,} of a modality that only the files may tell")
    yield f"{survey.name}: {listing.n_items:,} items, {_size(listing.n_bytes)}, by {survey.reader}"
    yield f"  modalities: {', '.join(modalities)}"
    if listing.faults:
        shown = [f"{n:,} {why}" for why, n in list(listing.faults.items())[:FAULTS]]
        yield f"  to be set aside: {', '.join(shown)}{', ...' if len(listing.faults) > FAULTS else ''}"
    yield f"  stored as: {survey.channels} x {survey.image_size} x {survey.image_size} pixels"
    for name, task in listing.tasks.items():
        splits = ", ".join(f"{n:,} {split}" for split, n in listing.n_labelled[name].items()) or "labels in the files"
        classes = ", ".join(task.classes[:8]) + (", ..." if len(task.classes) > 8 else "")
        yield f"  task {name}: {task.kind}, {len(task.classes)} classes ({classes}); {splits}"


def _did(store: Path, survey: Survey, done: Imported) -> Iterator[str]:
    """Lines on what an import did."""
    card = done.card
    if done.seconds is None:
        yield f"{card.name}: nothing to do, all {card.n_images:,} images are there since {card.imported}"
        return
    rate = (card.n_images - done.n_before) / max(done.seconds, 1e-6)
    before = f" ({done.n_before:,} of them before)" if done.n_before else ""
    by_modality = ", ".join(f"{n:,} {modality}" for modality, n in card.n_by_modality.items())
    yield (
        f"{card.name}: {card.n_images:,} images ({by_modality}){before} of {survey.listing.n_items:,} items in "
        f"{done.seconds:.1f} s, {rate:,.0f} images/s; {card.n_groups:,} groups"
    )
    if card.n_quarantined:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in done.reasons.items())
        yield f"  {card.n_quarantined:,} set aside: {reasons}; see {store / card.name / 'quarantine.parquet'}"
    if done.n_made_grey:
        yield f"  {done.n_made_grey:,} coloured images became grey; `channels: 3` keeps colour"
    for task, why in done.lost_tasks.items():
        yield f"  task {task} is left out: {why}"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} TB"


def list_(options: argparse.Namespace) -> int:
    from scaling.showing import list_, told

    with told(options.store):
        return list_(options)


def stats(options: argparse.Namespace) -> int:
    from scaling.showing import stats, told

    with told(options.store):
        return stats(options)


def show(options: argparse.Namespace) -> int:
    from scaling.showing import show, told

    with told(options.store):
        return show(options)


def verify(options: argparse.Namespace) -> int:
    from scaling.showing import told, verify

    with told(options.store):
        return verify(options)
