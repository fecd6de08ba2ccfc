"""The words of `scaling data`: what each does. Imports nothing heavy before it is asked to."""

from __future__ import annotations

import argparse


def add_import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="an import's YAML; or a folder or file of images, with the options below")


def import_(options: argparse.Namespace) -> int:
    raise NotImplementedError


def list_(options: argparse.Namespace) -> int:
    from scaling.showing import list_

    return list_(options)


def stats(options: argparse.Namespace) -> int:
    from scaling.showing import stats

    return stats(options)


def show(options: argparse.Namespace) -> int:
    from scaling.showing import show

    return show(options)


def verify(options: argparse.Namespace) -> int:
    from scaling.showing import verify

    return verify(options)
