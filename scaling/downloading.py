"""`scaling data download`: published files from where they lie, or a clear word on how to get them otherwise."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scaling import medmnist_sets
from scaling.errors import Problem, SpecError, unknown
from scaling.medmnist_sets import IMAGES, SIZES, address, file_name
from scaling.source_options import ROOT_VARIABLE

if TYPE_CHECKING:
    from scaling.importing.fetch import Progress, Wanted

NOT_ALL = 2


def add_download_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(after_interrupt="; the same command goes on from there")
    parser.add_argument("what", choices=["medmnist"])
    parser.add_argument("--size", type=int, choices=SIZES, default=28, help="pixels")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="default: the twelve of images")
    parser.add_argument("--to", type=Path, metavar="DIR", help=f"default: ${ROOT_VARIABLE}")


def download(options: argparse.Namespace) -> int:
    """Exit code; `NOT_ALL` when some could not be had. Raises SpecError for what cannot be asked for."""
    from scaling.importing.fetch import FetchFailed, Unreachable, fetch

    wanted = wanted_files(options.sets or IMAGES, options.size, _folder(options.to))
    failed: list[tuple[Wanted, str]] = []
    for position, each in enumerate(wanted):
        try:
            with _progress(each.path.name) as progress:
                how = fetch(each, progress)
        except Unreachable as error:
            failed += [(each, str(error)), *((other, "not tried") for other in _absent(wanted[position + 1 :]))]
            break
        except FetchFailed as error:
            failed.append((each, str(error)))
        else:
            print(f"{each.path}: {'fetched' if how == 'fetched' else 'is there'}, its MD5 is the published one")
    if not failed:
        return 0
    print(
        f"{len(failed)} of {len(wanted)} files are not here; give this again, or put them there by hand:",
        file=sys.stderr,
    )
    for each, why in failed:
        print(f"  {each.path}: {why}\n    {each.address}  MD5 {each.md5}", file=sys.stderr)
    return NOT_ALL


def wanted_files(names: Sequence[str], size: int, folder: Path) -> list[Wanted]:
    """Raises SpecError for sets that there are not, or not in this size."""
    from scaling.importing.fetch import Wanted

    table, problems = medmnist_sets.SETS, []
    for name in names:
        if name not in table:
            problems.append(Problem(where="--sets", what=unknown("set", name, table)))
        elif size not in table[name].md5:
            have = ", ".join(map(str, table[name].md5))
            problems.append(Problem(where="--size", what=f"{name} has no {size} pixels; allowed with it: {have}"))
    if problems:
        raise SpecError(problems)
    return [
        Wanted(address=address(name, size), path=folder / file_name(name, size), md5=table[name].md5[size])
        for name in dict.fromkeys(names)
    ]


def _folder(given: Path | None) -> Path:
    folder = given or (Path(os.environ[ROOT_VARIABLE]) if os.environ.get(ROOT_VARIABLE) else None)
    if folder is None:
        raise SpecError([Problem(where="--to", what=f"is not given; say where, or set ${ROOT_VARIABLE}")])
    return folder.expanduser()


def _absent(wanted: Sequence[Wanted]) -> list[Wanted]:
    return [each for each in wanted if not each.path.exists()]


@contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """A bar with speed and time left on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns,
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
