"""The dataset card: what is in an exported folder, how it was made, under which terms, and what it is not for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import yaml

from tailsmith import __version__
from tailsmith.exporting.examples import Export
from tailsmith.exporting.formats import Format
from tailsmith.exporting.tally import MAKERS, RANGES, Made, Tally

CITATION = """@article{askari2023feedback,
  title = {Feedback-guided Data Synthesis for Imbalanced Classification},
  author = {Askari Hemmat, Reyhane and Pezeshki, Mohammad and Bordes, Florian and Drozdzal, Michal
            and Romero-Soriano, Adriana},
  journal = {arXiv:2310.00158},
  year = {2023}
}"""
NOT_FOR = """- Synthetic images are no photographs: don't show them as such, and keep their marks when you pass them on.
- Don't test or select a model on them: validation and test images here are real.
- They show what a generator takes a class to look like: no statistics about the world, and nothing about the people in
  an image, follow from them.
- What a generator's licence and terms of use forbid is forbidden with its images."""
SAYS_SO = """Every synthetic image says so: `source` is `synthetic`, `provenance` is JSON of all that it follows from,
and the same text is inside the image file (PNG: text chunk `tailsmith`, JPEG: comment, WebP: XMP), with IPTC's digital
source type `trainedAlgorithmicMedia`."""
CATEGORIES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def card(export: Export, tally: Tally, layout: Format) -> str:
    """Markdown with the front matter that Hugging Face reads; its numbers are those of what was written."""
    synthetic = tally.count(source="synthetic")
    front = yaml.safe_dump(_front_matter(export, tally, layout), sort_keys=False, allow_unicode=True, width=120)
    lines = ["---", front.strip(), "---", f"# {_one_line(_title(export, tally))}", ""]
    lines += [f"{tally.count():,} images, {synthetic:,} of them synthetic, written by tailsmith {__version__}.", ""]
    lines += _table("class", export.class_names, tally, [(label, None) for label in range(len(export.class_names))])
    if export.attribute_names and tally.count() > tally.count(attribute=-1):
        pairs = [(c, a) for c in range(len(export.class_names)) for a in range(len(export.attribute_names))]
        groups = [f"{export.class_names[c]} in {export.attribute_names[a]}" for c, a in pairs]
        lines += ["", *_table("group", groups, tally, pairs)]
    for why, count in export.left_out.items():
        lines += ["", f"{count:,} of the images that were asked for {why}, and are left out."]
    if synthetic:
        lines += ["", SAYS_SO, "", "## How the synthetic images were made", ""]
        lines += [line for names, made in tally.makers.items() for line in _made(names, made)]
    lines += ["", "## Licences", "", *_licences(export, tally)]
    if synthetic:
        lines += ["", "## What it may not be used for", "", NOT_FOR, "", "## To cite", ""]
        lines += ["Whoever made the real images, the generator, and the method:", "", "```bibtex", CITATION, "```"]
    return "\n".join([*lines, ""])


def _title(export: Export, tally: Tally) -> str:
    if not tally.count(source="synthetic"):
        return export.name
    return f"{export.name}: {'synthetic images' if not tally.count(source='real') else 'real and synthetic images'}"


def _table(what: str, names: Sequence[str], tally: Tally, keys: Sequence[tuple[int, int | None]]) -> list[str]:
    """Counts of each class (attribute None) or group, in a column for each split and source there is, and their sum."""
    grouped = keys[0][1] is not None
    cells: Counter[tuple[str, str, tuple[int, int | None]]] = Counter()
    for (split, source, label, attribute), count in tally.counts.items():
        cells[split, source, (label, attribute if grouped else None)] += count
    columns = [
        (split, source)
        for split in tally.splits
        for source in ("real", "synthetic")
        if tally.count(split=split, source=source)
    ]
    heads = [split if split != "train" else f"train, {source}" for split, source in columns]
    rows = [[f"{cells[split, source, key]:,}" for split, source in columns] for key in keys]
    total = [f"{sum(cells[split, source, key] for key in keys):,}" for split, source in columns]
    lines = [f"| {what} | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    return lines + [
        f"| {name} | {' | '.join(row)} |"
        for name, row in zip(
            [*map(_one_line, names), f"all that have a {what}" if grouped else "all"], [*rows, total], strict=True
        )
    ]


def _made(names: tuple[str, ...], made: Made) -> list[str]:
    by = {name: _one_line(value) for name, value in zip(MAKERS, names, strict=True)}
    if not by["generator"]:
        return [f"- {made.images:,} images: neither their files nor the data say how."]
    scales = {name: _range(*made.ranges[name]) for name in RANGES if name in made.ranges}
    lines = [
        f"- {made.images:,} images by the generator `{by['generator']}` ({_weights(by['generator_sha256'])}), licence: "
        f"{by['generator_licence'] or 'unknown'}",
        f"  - plan `{by['plan'] or 'unknown'}`, tailsmith {by['version'] or 'unknown'}, {by['dtype'] or 'unknown'}",
        f"  - conditioned on text and a real image of the class: {made.conditioned:,}; on text alone: "
        f"{made.images - made.conditioned:,}",
        f"  - guidance scale {scales.get('guidance_scale', 'unknown')}, {scales.get('num_inference_steps', '?')} steps",
    ]
    if made.criteria:
        lines += [
            f"  - steered by a classifier ({_weights(by['classifier_sha256'])}): criterion "
            f"{', '.join(map(_one_line, sorted(made.criteria)))}, feedback scale {scales['feedback_scale']}"
        ]
    else:
        lines += ["  - steered by no classifier"]
    return lines


def _weights(sha256: str) -> str:
    """A hash, or the hub's id and revision, as provenance has either."""
    if sha256.startswith("hub:"):
        return f"`{sha256.replace('hub:', '')}` on the Hugging Face hub"
    return f"SHA-256 `{sha256 or 'unknown'}`"


def _licences(export: Export, tally: Tally) -> list[str]:
    lines = []
    if tally.count(source="real"):
        own = export.names["licence"] or "not known to tailsmith; ask whoever collected them"
        lines += [f"- real images ({_one_line(export.name)}): {_one_line(str(own))}"]
    generators = {
        (names[MAKERS.index("generator")], names[MAKERS.index("generator_licence")]) for names in tally.makers
    }
    return lines + [
        f"- synthetic images by {_one_line(name) or 'an unknown generator'}: those of its licence, "
        f"{_one_line(licence) or 'unknown'}"
        for name, licence in sorted(generators)
    ]


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _front_matter(export: Export, tally: Tally, layout: Format) -> dict[str, object]:
    synthetic = tally.count(source="synthetic") > 0
    features = layout.features(export, tally)
    files = [{"split": HUB_SPLITS[each], "path": layout.files.format(split=each)} for each in tally.splits]
    config: dict[str, object] = {"config_name": "default", "data_files": files}
    size = next((name for most, name in CATEGORIES if tally.count() < most), "n>10M")
    return {
        "pretty_name": _title(export, tally),
        "license": "other",
        "license_name": "see-the-section-on-licences",
        "task_categories": ["image-classification"],
        "size_categories": [size],
        "tags": ["synthetic", "tailsmith"] if synthetic else ["tailsmith"],
        "configs": [{**config, "features": features} if layout.in_config else config],
        "dataset_info": {"features": features},
    }


def _one_line(text: str) -> str:
    """Names are anybody's: no line breaks, tables, links or HTML come from them."""
    return "".join(f"&#{ord(each)};" if each in "<>|`[]*_&#\\" or not each.isprintable() else each for each in text)
