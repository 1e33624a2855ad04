"""The dataset card: what is in an exported folder, how it was made, and what it is not."""

from __future__ import annotations

import yaml

from tailsmith.errors import UserError
from tailsmith.exporting.examples import Export
from tailsmith.generation.generator import Generator
from tailsmith.synthesis.plan_identity import said

CITATION = """@article{askari2023feedback,
  title = {Feedback-guided Data Synthesis for Imbalanced Classification},
  author = {Askari Hemmat, Reyhane and Pezeshki, Mohammad and Bordes, Florian and Drozdzal, Michal
            and Romero-Soriano, Adriana},
  journal = {arXiv:2310.00158},
  year = {2023}
}"""
NOT_FOR = """- Synthetic images are no photographs. Don't show them as such, and don't test or select a model on them.
- They show what a generator takes a class to look like: no statistics about the world follow from them.
- The generator's licence and terms of use go with its images, and those of the real images with these."""


def card(export: Export) -> str:
    """Markdown with the front matter that Hugging Face reads."""
    synthetic = export.count(source="synthetic")
    name = str(export.plan.meta.get("dataset") or export.samples.resolve().name)
    lines = [
        "---",
        yaml.safe_dump(_front_matter(export), sort_keys=False, allow_unicode=True).strip(),
        "---",
    ]
    lines += [f"# {_one_line(name)}, topped up", ""]
    lines += [
        f"{len(export):,} images, {synthetic:,} of them synthetic, made by [tailsmith](https://pypi.org/project/tailsmith).",
        "",
    ]
    lines += ["| class | real | synthetic |", "|---|---|---|"]
    for label, class_name in enumerate(export.class_names):
        real, made = (export.count(source=source, label=label) for source in ("real", "synthetic"))
        lines.append(f"| {_one_line(class_name)} | {real:,} | {made:,} |")
    for what, count in export.left_out.items():
        lines += ["", f"{count:,} of the images that were asked for {what}, and are left out."] if count else []
    lines += [
        "",
        "Every synthetic image says so: column or key `source`, `provenance` with all that it follows from, and",
        "the same text inside the image file.",
        "",
    ]
    lines += ["## How the images were made", "", *_made(export), "", "## What it is not for", "", NOT_FOR, ""]
    lines += ["## To cite", "", "```bibtex", CITATION, "```", ""]
    return "\n".join(lines)


def _made(export: Export) -> list[str]:
    plan, meta = export.plan, export.plan.meta
    name = str(meta["generator"])
    table = plan.table
    conditioned = "text and a real image of the class" if table["conditioning_id"].notna().any() else "text alone"
    lines = [
        f"- generator: `{_one_line(name)}`, SHA-256 `{meta.get('generator_sha256') or 'unknown'}`, "
        f"licence {_one_line(_licence(name))}",
        f"- conditioned on {conditioned}; guidance scale {_range(table['guidance_scale'])}, "
        f"{_range(table['num_inference_steps'])} steps, {said(meta['synthesis'], 'dtype')}",
    ]
    if plan.has_feedback:
        criteria = ", ".join(sorted(table.loc[table["feedback_scale"] > 0, "criterion"].unique()))
        lines.append(
            f"- steered by a classifier (SHA-256 `{meta.get('classifier_sha256') or 'unknown'}`): criterion "
            f"{criteria}, feedback scale {_range(table['feedback_scale'])}"
        )
    return [*lines, f"- plan: {len(plan):,} requests, identity `{plan.identity}`"]


def _licence(generator: str) -> str:
    """ "unknown" also for a generator that is gone: its images are there nevertheless."""
    try:
        return Generator.find(generator).licence or "unknown"
    except UserError:
        return "unknown"


def _range(values: object) -> str:
    low, high = values.min(), values.max()  # type: ignore[attr-defined]  # a column
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _front_matter(export: Export) -> dict[str, object]:
    licence = "" if export.real is None else export.real.licence
    return {
        "license": "other",
        "license_name": licence or "see the generator's licence",
        "task_categories": ["image-classification"],
        "tags": ["synthetic", "tailsmith"],
    }


def _one_line(text: str) -> str:
    """Names are anybody's: no line breaks, tables, links or HTML come from them."""
    return "".join(f"&#{ord(each)};" if each in "<>|`[]*_&#\\" or not each.isprintable() else each for each in text)
