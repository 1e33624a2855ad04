"""The command that writes a set for others."""

from __future__ import annotations

from pathlib import Path

from tailsmith.cli.options import Reading

_READING = Reading()


def export(
    samples: Path,  # folder of shards that `tailsmith synthesize` filled, or RUN/synthetic/SET
    *,
    out: Path,  # a new folder
    format: str = "parquet",  # parquet | imagefolder (both as Hugging Face reads them) | webdataset
    data: str | None = None,  # the real images, to be written beside; None = the synthetic ones alone
    reading: Reading = _READING,
) -> None:
    """Write a synthetic set for other programs: each image says that it is synthetic, and how it was made."""
    from tailsmith.exporting.export import export_set

    written = export_set(samples, out, format, None if data is None else reading.load(data))
    print(
        f"{len(written):,} images, {written.count(source='synthetic'):,} of them synthetic; card: {out / 'README.md'}"
    )
    print(f"Images: {out}")
