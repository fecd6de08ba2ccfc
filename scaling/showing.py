"""The words of `scaling data` that look at a store: list, stats, show, verify."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.verbs import DONE, console_of, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from scaling.store.describing import Described
    from scaling.store.opened import StoredSource

NOT_PROVED = 2


@contextmanager
def told(store: Path) -> Iterator[None]:
    """What the disk or a damaged file of images refuses, as a SpecError."""
    from scaling.errors import Problem, SpecError
    from scaling.store.opened import DamagedPart

    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our output is gone
    except OSError as error:
        what = f"cannot be read or written: {error.strerror or error}"
        raise SpecError([Problem(where=str(error.filename or store), what=what)]) from None
    except DamagedPart as error:
        raise SpecError([Problem(where=str(store), what=str(error))]) from None


def list_(options: argparse.Namespace) -> int:
    from scaling.live import size
    from scaling.store.opened import open_sources

    card, sources = open_sources(options.store)
    if options.json:
        listed = [_listed(source) for source in sources.values()]
        print_json({"store": str(options.store), "image_size": card.image_size, "sources": listed})
        return DONE
    from rich.table import Table

    n = sum(source.card.n_images for source in sources.values())
    total = sum(map(_n_bytes, sources.values()))
    title = f"{options.store}: {n:,} images of {card.image_size} pixels, {size(total)}"
    table = Table(
        "source", "images", "modalities", "channels", "groups", "tasks", "set aside", "size", "by", title=title
    )
    for source in sources.values():
        of = source.card
        table.add_row(
            of.name,
            f"{of.n_images:,}",
            ", ".join(f"{name} {n:,}" for name, n in of.n_by_modality.items()),
            str(of.channels),
            f"{of.n_groups:,}",
            ", ".join(f"{task} ({about.kind}, {len(about.classes)})" for task, about in of.tasks.items()),
            f"{of.n_quarantined:,}",
            size(_n_bytes(source)),
            f"{of.reader}, {of.imported[:10]}",
        )
    console_of().print(table)
    return DONE


def _n_bytes(source: StoredSource) -> int:
    return sum(path.stat().st_size for path in source.folder.iterdir())


def _listed(source: StoredSource) -> dict[str, object]:
    keys = {
        "name",
        "reader",
        "channels",
        "n_images",
        "n_quarantined",
        "n_by_modality",
        "n_groups",
        "imported",
        "synthetic",
    }
    tasks = {task: about.model_dump() for task, about in source.card.tasks.items()}
    return {**source.card.model_dump(include=keys), "tasks": tasks, "n_bytes": _n_bytes(source)}


def stats(options: argparse.Namespace) -> int:
    from scaling.store.describing import described
    from scaling.store.opened import open_sources

    card, sources = open_sources(options.store, options.name or None)
    found = [described(source, card.image_size) for source in sources.values()]
    if options.json:
        print_json({"store": str(options.store), "sources": [asdict(each) for each in found]})
        return DONE
    console = console_of()
    for each in found:
        for part in _described(each):
            console.print(part, soft_wrap=isinstance(part, str), markup=False)
    return DONE


def _described(of: Described) -> Iterator[str | Table]:
    from rich.table import Table

    from scaling.live import size

    modalities = ", ".join(f"{n:,} {name}" for name, n in of.by_modality.items())
    yield f"{of.name}: {of.n_images:,} images ({modalities}), {of.n_groups:,} groups, {size(of.n_bytes)}"
    if of.n_distinct < of.n_images:
        yield f"  {of.n_images - of.n_distinct:,} are copies of others, pixel by pixel; sweeps take one of each"
    sizes = [f"{low}" if low == high else f"{low} to {high}, median {mid}" for low, mid, high in (of.height, of.width)]
    yield f"  originals: height {sizes[0]}; width {sizes[1]} pixels"
    yield f"  intensity: mean {of.mean:.1f}, sd {of.sd:.1f} of 0-255, over {of.n_looked_at:,} images"
    yield f"  splits: {', '.join(f'{n:,} {split}' for split, n in of.by_split.items() if n)}"
    for task, splits in of.tasks.items():
        if not splits:
            yield f"  task {task}: no labels"
            continue
        classes = list(next(iter(splits.values())))
        table = Table(f"task {task}", *splits, title_justify="left")
        for name in classes:
            table.add_row(name, *(f"{counts[name]:,}" for counts in splits.values()))
        yield table
    for reason, n in of.quarantine.items():
        yield f"  set aside: {n:,} x {reason}"


def show(options: argparse.Namespace) -> int:
    from scaling.errors import Problem, SpecError
    from scaling.rundir import write_whole
    from scaling.store.describing import quarantined, sheet, sheet_rows
    from scaling.store.opened import open_sources

    if options.out.suffix.lower() != ".png":
        raise SpecError([Problem(where="--out", what=f"{options.out} does not end in .png, which is what is written")])
    card, sources = open_sources(options.store, options.name or None)
    rows = [row for source in sources.values() for row in sheet_rows(source, card.image_size)]
    said = []
    for source in sources.values():
        reasons = quarantined(source.folder)
        said += [f"{source.name}: nothing was set aside"] if not reasons else []
        said += [f"{source.name}: {n:,} set aside: {reason}" for reason, n in reasons.items()]
    write_whole(options.out, sheet(rows, [f"{options.store}, {card.image_size} pixels", *said]))
    print(f"{options.out}: {sum(len(row.images) for row in rows)} images of {len(sources)} sources")
    return DONE


def verify(options: argparse.Namespace) -> int:
    from scaling.store.verifying import verify

    proofs = []
    for proof in verify(options.store, options.name, quick=options.quick):
        proofs.append(proof)
        if not options.json:
            print(f"{proof.state:<6}  {proof.of}: {proof.what}", flush=True)
    wrong = sum(proof.state == "wrong" for proof in proofs)
    if options.json:
        print_json({"store": str(options.store), "holds": not wrong, "proofs": [asdict(proof) for proof in proofs]})
    elif wrong:
        print(f"{wrong} of {len(proofs)} do not hold")
    return NOT_PROVED if wrong else DONE
