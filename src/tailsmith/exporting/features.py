"""What Hugging Face's `datasets` is told of the columns: as YAML in a card, as JSON in a Parquet schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tailsmith.exporting.examples import Export
from tailsmith.exporting.tally import Tally


def column(name: str, dtype: object) -> Mapping[str, object]:
    return {"name": name, "dtype": dtype}


def class_label(names: Sequence[str]) -> Mapping[str, object]:
    return {"class_label": {"names": {str(code): name for code, name in enumerate(names)}}}


def of_files(export: Export, tally: Tally) -> list[Mapping[str, object]]:
    """The columns beside an image in formats that name labels; attributes are texts where some image has none."""
    all_have = bool(export.attribute_names) and not tally.count(attribute=-1)
    attribute = class_label(export.attribute_names) if all_have else "string"
    texts = [column(name, "string") for name in ("image_id", "source", "provenance")]
    return [column("label", class_label(export.class_names)), column("attribute", attribute), *texts]


def schema_features(export: Export) -> Mapping[str, object]:
    """The value of "huggingface" in the metadata of a Parquet schema."""
    text = {"dtype": "string", "_type": "Value"}
    attribute = {"names": list(export.attribute_names), "_type": "ClassLabel"}
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(export.class_names), "_type": "ClassLabel"},
        "attribute": attribute if export.attribute_names else {"dtype": "int64", "_type": "Value"},
        **dict.fromkeys(("image_id", "source", "provenance"), text),
    }
    return {"info": {"features": features}}
