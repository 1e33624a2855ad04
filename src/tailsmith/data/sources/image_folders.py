"""A folder as people have it -> its files with split and class: which folders are splits, and what is left out."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tailsmith.data.decoding import image_suffixes
from tailsmith.data.sources.split_names import may_be_split, split_name
from tailsmith.errors import UserError

# What systems and tools leave in folders of images, in lower case; whatever begins with a dot is left out too.
SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "lost+found", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information"),
        "__pycache__",
    )
)
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
# Captions, annotations and notes that lie beside images. Other files in a class folder should be images.
SIDE_SUFFIXES = frozenset(
    (
        ".txt",
        ".caption",
        ".json",
        ".jsonl",
        ".xml",
        ".csv",
        ".tsv",
        ".md",
        ".yaml",
        ".yml",
        ".html",
        ".log",
        ".xmp",
        ".aae",
    )
)
NAMED = 5  # things that a log line names

log = logging.getLogger(__name__)

Parts = tuple[str, ...]  # of a path below the folder that is read


@dataclass(frozen=True)
class LabelledFile:
    """`path` is relative, with slashes."""

    split: str
    class_name: str
    path: str


@dataclass(frozen=True)
class _Folder:
    parts: Parts
    real: Path  # with links resolved
    files: tuple[str, ...]  # those that may be images
    side_files: tuple[str, ...]
    system_folders: tuple[str, ...]  # in it, and not looked into


def labelled_files(root: Path) -> list[LabelledFile]:
    """Every file below that should be an image, in order of split folder, class folder and path.

    A class folder with no file is no class. ValueError for folders that may be splits and may be classes; what is left
    out is a log line.
    """
    folders = sorted(_walk(root), key=lambda each: each.parts)
    bases = _split_folders(root, folders)
    files: list[LabelledFile] = []
    seen: set[tuple[Parts, Path]] = set()  # (class folder, real folder): one that is linked twice counts once
    for split, base in bases:
        for each in _below(folders, base):
            class_folder = each.parts[: len(base) + 1]
            if len(each.parts) == len(base) or (class_folder, each.real) in seen:
                continue
            seen.add((class_folder, each.real))
            paths = ("/".join((*each.parts, name)) for name in each.files)
            files += [LabelledFile(split, class_folder[-1].strip(), path) for path in paths]
    if files:  # else the caller has more to say
        _say_what_is_left_out(root, folders, [base for _, base in bases])
    return sorted(files, key=lambda each: each.path.split("/"))


def _walk(root: Path) -> Iterable[_Folder]:
    """The folder and all below it, links followed, but not into a folder that one is already in."""
    waiting: list[tuple[Parts, Path, frozenset[Path]]] = [((), root.resolve(), frozenset())]
    while waiting:
        parts, real, above = waiting.pop()
        files, side_files, system = [], [], []
        with os.scandir(root.joinpath(*parts)) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name.startswith("."):
                    continue
                if entry.is_dir():
                    inside = Path(entry.path).resolve() if entry.is_symlink() else real / entry.name
                    if name in SYSTEM_FOLDERS:
                        system.append(entry.name)
                    elif inside not in above | {real}:
                        waiting.append(((*parts, entry.name), inside, above | {real}))
                elif name in SYSTEM_FILES or os.path.splitext(name)[1] in SIDE_SUFFIXES:
                    side_files.append(entry.name)
                else:
                    files.append(entry.name)
        yield _Folder(parts, real, tuple(sorted(files)), tuple(side_files), tuple(system))


def _split_folders(root: Path, folders: Sequence[_Folder]) -> list[tuple[str, Parts]]:
    """(split, folder of class folders); a flat folder is all train.

    Splits are there if a folder with the name of one has class folders inside: "train" may also be a class.
    """
    children = _children(folders, ())
    splits = {name: split for name in children if (split := split_name(name)) is not None}
    bases = {name: _unnested(folders, name) for name in splits}
    with_classes = [name for name in splits if _children(folders, bases[name])]
    if not with_classes:
        _check_flat(root, folders, children)
        return [("train", ())]
    strangers = [name for name in children if name not in splits]
    if strangers:
        raise UserError(
            f"{root} has {with_classes[0]}/ with class folders, and also {strangers[0]}/; expected train, val and test "
            "folders only, or class folders only: rename it, move it elsewhere, or list the images in a metadata.csv"
        )
    if not any(splits[name] == "train" for name in with_classes):
        raise UserError(
            f"{root} has {' and '.join(f'{name}/' for name in with_classes)} with class folders, and no train/ with "
            "such; name the folder of the training images train, or list the images in a metadata.csv with columns "
            "path, label and split"
        )
    for name in splits:
        loose = _images(folders, bases[name])
        if loose:
            log.warning(
                "%s: %d images directly in %s/ are in no class folder, and left out; the first is %s",
                *(root, len(loose), name, "/".join((*bases[name], loose[0]))),
            )
    return [(splits[name], bases[name]) for name in with_classes]


def _check_flat(root: Path, folders: Sequence[_Folder], children: Sequence[str]) -> None:
    """No class folder is more likely a split."""
    for name in children:
        like_split = split_name(name) is not None and (name.lower() != "train" or len(children) == 1)
        if like_split or (may_be_split(name) and len(_children(folders, (name,))) > 1):
            raise UserError(
                f"{root} has {name}/: is it a split or a class? A split is called train, val or test and has a folder "
                "per class inside; rename the folder, or list the images in a metadata.csv with columns path, label "
                "and split"
            )
    loose = _images(folders, ())
    if loose and children:
        log.warning("%s: %d images in no class folder are left out; the first is %s", root, len(loose), loose[0])


def _unnested(folders: Sequence[_Folder], name: str) -> Parts:
    """Where a split's class folders are: archives often have train/train/CLASS."""
    inside = _children(folders, (name,))
    again = len(inside) == 1 and split_name(inside[0]) == split_name(name) and not _images(folders, (name,))
    return (name, inside[0]) if again and _children(folders, (name, inside[0])) else (name,)


def _children(folders: Sequence[_Folder], base: Parts) -> list[str]:
    """Names of the folders in a folder that have files somewhere inside."""
    return list(
        dict.fromkeys(each.parts[len(base)] for each in _below(folders, base) if each.files and each.parts != base)
    )


def _images(folders: Sequence[_Folder], base: Parts) -> list[str]:
    """Files directly in a folder that have the suffix of an image."""
    here = next(each for each in folders if each.parts == base)
    return [name for name in here.files if os.path.splitext(name)[1].lower() in image_suffixes()]


def _below(folders: Sequence[_Folder], base: Parts) -> list[_Folder]:
    return [each for each in folders if each.parts[: len(base)] == base]


def _say_what_is_left_out(root: Path, folders: Sequence[_Folder], bases: Sequence[Parts]) -> None:
    """One line: folders of systems, class folders without an image, and files beside images that are none."""
    system = [name for each in folders for name in each.system_folders]
    empty: list[str] = []
    side_files: Counter[str] = Counter()
    for base in bases:
        filled = set(_children(folders, base))
        names = dict.fromkeys(each.parts[len(base)] for each in _below(folders, base) if each.parts != base)
        empty += ["/".join((*base, name)) for name in names if name not in filled]
        inside = [name for each in _below(folders, base) if each.parts != base for name in each.side_files]
        side_files.update(os.path.splitext(name)[1].lower() or name for name in inside)
    kinds = {
        "folder of the system": system,
        "folder without an image": empty,
        "file that is no image": [kind for kind, count in side_files.items() for _ in range(count)],
    }
    said = [_counted(kind, names) for kind, names in kinds.items() if names]
    if said:
        log.warning("%s: left out %s", root, ", ".join(said))


def _counted(kind: str, names: Sequence[str]) -> str:
    """ "2 folders of the system (__MACOSX, lost+found)" """
    different = list(dict.fromkeys(names))
    more = ", ..." if len(different) > NAMED else ""
    noun, rest = kind.split(" ", 1)
    plural = f"{noun}s {rest.replace('is no image', 'are no images')}"
    return f"{len(names):,} {kind if len(names) == 1 else plural} ({', '.join(different[:NAMED])}{more})"
