"""Reads WebDataset's tar shards where they lie: samples are found by their headers, images by their offsets.

Row of data/. Nothing is ever unpacked to disk. A member is a regular file with a relative name; all else is set aside.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scaling.errors import Problem, SpecError
from scaling.importing.clinical_files import archives_below, inside, root_of, stamp_of
from scaling.importing.columns import Columns, split_in_path
from scaling.importing.image_file import ENDINGS, frames_of
from scaling.importing.reader import Frame, Item, LabelSetting, Unreadable
from scaling.importing.safety import MAX_FILE, MAX_TEXT, OUTSIDE, name_fault, read_span
from scaling.reader_options import WebdatasetOptions

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of a shard, or why it is none."""

    name: str
    start: int = 0
    n_bytes: int = 0
    fault: str | None = None

    @property
    def key(self) -> str:
        """Of its sample, as the webdataset package has it: all before the first dot of the last part."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base.partition(".")[0]

    @property
    def extension(self) -> str:
        return self.name.rpartition("/")[2].partition(".")[2].lower()

    @property
    def is_image(self) -> bool:
        return f".{self.extension}".endswith(ENDINGS)


@dataclass(frozen=True, kw_only=True)
class Sample:
    key: str
    members: list[Member] = field(default_factory=list)


class Webdataset:
    """Every image of every sample of the shards below a folder, or of one shard."""

    def __init__(self, options: WebdatasetOptions) -> None:
        """Raises SpecError."""
        self.options = options
        self.root = root_of(options.path)
        # `key` is not a column but how the key itself is read
        self._by_key = options.group == "key"
        self._columns = Columns(options.model_copy(update={"group": None}) if self._by_key else options)

    def items(self) -> Iterator[Item]:
        self.tasks()
        for name, path in self._shards:
            n_bytes, stamp = stamp_of(path)
            if name.lower().endswith(PACKED):
                yield Item(
                    id=name, path=path, n_bytes=n_bytes, stamp=stamp, fault="compressed shard; unpack it to .tar"
                )
                continue
            seen = set[str]()
            for sample in samples(path):
                for item in self._items(name, path, sample, stamp):
                    if item.id in seen:
                        again = f"{item.id} (at {item.span[0] if item.span else 0})"
                        item = replace(item, id=again, fault=item.fault or "its name stands twice in the shard")
                    seen.add(item.id)
                    yield item

    def tasks(self) -> Mapping[str, LabelSetting]:
        return self._settings

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        if item.fault or item.span is None:
            raise Unreadable(item.fault or "no image")
        if not inside(item.path, self.root):
            raise Unreadable(OUTSIDE)
        yield from frames_of(read_span(item.path, *item.span), item.id, self.options, item.about)

    @cached_property
    def _shards(self) -> list[tuple[str, Path]]:
        if self.root.is_file():
            return [(self.root.name, self.root)]
        endings = (".tar", *PACKED)
        found = archives_below(self.root, endings)
        if not found:
            raise SpecError([Problem(where="path", what=f"no file below '{self.options.path}' ends in .tar")])
        return found

    @cached_property
    def _settings(self) -> Mapping[str, LabelSetting]:
        return self._columns.learn(self._all_cells() if self._columns.needed else ())

    def _all_cells(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for name, path in self._shards:
            for sample in samples(path) if name.lower().endswith(".tar") else ():
                cells, fault = self._cells(path, sample)
                if fault is None and sample.members:
                    yield f"{name}/{sample.key}", cells

    def _items(self, shard: str, path: Path, sample: Sample, stamp: str) -> Iterator[Item]:
        bad = [member for member in sample.members if member.fault]
        for member in bad:
            yield Item(id=f"{shard}/{member.name}", path=path, n_bytes=0, stamp=stamp, fault=member.fault)
        images = [each for each in sample.members if not each.fault and self._wanted(each)]
        if not images:
            if not bad:
                yield Item(
                    id=f"{shard}/{sample.key}", path=path, n_bytes=0, stamp=stamp, fault="no image in the sample"
                )
            return
        cells, fault = self._cells(path, sample)
        about, wrong = self._columns.about(cells)
        group = self._group(shard, sample.key) if self._by_key else about.group
        if group is None and len(images) > 1:
            group = f"{shard}/{sample.key}"
        about = replace(about, group=group)
        if self.options.split == "path":
            about = replace(about, split=split_in_path(shard))
        for member in images:
            yield Item(
                id=f"{shard}/{member.name}",
                path=path,
                n_bytes=member.n_bytes,
                stamp=stamp,
                span=(member.start, member.n_bytes),
                about=about,
                fault=fault or wrong,
            )

    def _wanted(self, member: Member) -> bool:
        if self.options.image is not None:
            return member.extension == self.options.image.lower().lstrip(".")
        return member.is_image

    def _group(self, shard: str, key: str) -> str:
        """What stands before the last / or _ of a key; without either the key."""
        cut = max(key.rfind("/"), key.rfind("_"))
        return key[:cut] if cut > 0 else key

    def _cells(self, path: Path, sample: Sample) -> tuple[Mapping[str, Any], str | None]:
        """Column -> value, and what is wrong with the members that hold them."""
        needed = self._columns.needed
        if not needed:
            return {}, None
        by_extension = {each.extension: each for each in sample.members if not each.fault}
        try:
            found: dict[str, Any] = {
                column: _text(path, by_extension[column]) for column in needed if column in by_extension
            }
            if "json" in by_extension and len(found) < len(needed):
                said = json.loads(_text(path, by_extension["json"]))
                found |= {column: _inner(said, column) for column in needed if column not in found}
        except Unreadable as why:
            return {}, str(why)
        except (ValueError, RecursionError):
            return {}, "damaged metadata"
        return found, None


def samples(path: Path) -> Iterator[Sample]:
    """Members next to each other that share a key; one that cannot be used is there with its fault."""
    sample = Sample(key="")
    for member in members(path):
        if member.fault or member.key != sample.key:
            if sample.members:
                yield sample
            sample = Sample(key="" if member.fault else member.key)
        sample.members.append(member)
    if sample.members:
        yield sample


def members(path: Path) -> Iterator[Member]:
    """Of a tar file, read by headers alone; what ends it too early is the last one's fault."""
    size, last = path.stat().st_size, -1
    try:
        with tarfile.open(path, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if info.offset <= last:
                    yield Member(name="(archive)", fault="damaged archive")
                    return
                last = info.offset
                if not info.isdir():
                    yield _member(info, size)
                if info.offset_data + info.size > size:
                    return  # told with the member
            end = archive.offset
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        text = str(error)
        short = "end of data" in text or "truncated" in text or "empty" in text
        yield Member(name="(archive)", fault="truncated archive" if short else "damaged archive")
        return
    with open(path, "rb") as file:  # tarfile ends without a word at a header that it cannot read
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        whole = len(block) == tarfile.BLOCKSIZE
        yield Member(name="(archive)", fault="damaged archive" if whole else "truncated archive")


def _member(info: tarfile.TarInfo, size: int) -> Member:
    name = info.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    # tarfile cuts a leading slash off no name it reads, so an absolute one is still seen here
    fault = name_fault(name)
    if info.issym() or info.islnk():
        fault = fault or "a link"
    elif not info.isreg() or info.issparse():
        fault = fault or "no regular file"
    elif info.size > MAX_FILE:
        fault = fault or f"too large: more than {MAX_FILE} bytes"
    elif info.offset_data + info.size > size:
        fault = fault or "truncated file"
    return Member(name=name, start=info.offset_data, n_bytes=info.size, fault=fault)


def _text(path: Path, member: Member) -> str:
    """Raises Unreadable."""
    if member.n_bytes > MAX_TEXT:
        raise Unreadable(f"metadata of more than {MAX_TEXT} bytes")
    try:
        return read_span(path, member.start, member.n_bytes).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("metadata is not UTF-8") from None


def _inner(said: Any, column: str) -> Any:
    """`a.b` of {"a": {"b": 1}}; None where it is not there."""
    for key in column.removeprefix("json.").split("."):
        said = said.get(key) if isinstance(said, Mapping) else None
    return said
