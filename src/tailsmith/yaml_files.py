"""YAML as we read it: names stay as they are written, and no file takes more memory or time than it looks like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tailsmith.errors import UserError

MOST_BYTES = 2 * 1024**2
MOST_VALUES = 200_000  # after every alias is replaced by what it stands for
DEEPEST = 50

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with libyaml


class _Loader(_Base):
    """Keys are text as written: a class may be called 10 or no. 1e-3 is a number, as in YAML 1.2; dates are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        pairs = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key should be one word", key.start_mark)
            pairs[key.value] = self.construct_object(value, deep=deep)
        return pairs


_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_FLOAT = r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in pairs if tag not in _REPLACED]
    for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(rf"^(?:{_FLOAT}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)


def load_yaml(text: str) -> Any:
    """The value of a document; yaml.YAMLError for one that is none, or that would grow out of bounds."""
    _check_bounds(text)
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path, what: str) -> Any:
    """Of a file, in UTF-8. ValueError that begins with `what`, a name for the file, where that can't be."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{what} {path} has {size:,} bytes, expected at most {MOST_BYTES:,}: is it the right file?")
        return load_yaml(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is not text in UTF-8 ({error.reason}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{what} {path} is not a YAML file: {' '.join(str(error).split())}") from error


def _check_bounds(text: str) -> None:
    """By the parser's events, before anything is built: nine aliases of nine aliases are a billion values."""
    sizes: dict[str | None, int] = {}  # anchor -> values it stands for
    open_: list[tuple[str | None, int]] = []  # (anchor, values before it) of each collection that hasn't ended
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in {anchor for anchor, _ in open_}:
                raise yaml.YAMLError(f"alias *{event.anchor} stands for something that it is part of itself")
            total += sizes.get(event.anchor, 0)
        elif isinstance(event, (yaml.CollectionStartEvent, yaml.ScalarEvent)):
            total += 1
        if isinstance(event, yaml.ScalarEvent) and event.anchor:
            sizes[event.anchor] = 1
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > MOST_VALUES or len(open_) > DEEPEST:
            raise yaml.YAMLError(f"expected at most {MOST_VALUES:,} values, {DEEPEST} deep, aliases written out")
