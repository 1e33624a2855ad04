"""The command that writes images for other programs."""

from __future__ import annotations

from pathlib import Path

from tailsmith.cli.options import Reading
from tailsmith.errors import UserError

_READING = Reading()


def export(
    source: str,  # RUN/synthetic/SET or another folder of shards; or data, as `tailsmith inspect` reads them
    *,
    out: Path,  # a new folder
    format: str = "parquet",  # parquet | imagefolder (both as Hugging Face reads them) | webdataset
    data: str | None = None,  # with a set: the real images, to be written beside; None = the synthetic ones alone
    reading: Reading = _READING,
) -> None:
    """Write a synthetic set, data, or both for other programs: each synthetic image says so, and how it was made."""
    from tailsmith.exporting.export import README, check_export, is_set
    from tailsmith.exporting.export import export as write_export
    from tailsmith.runs.outputs import check_folder

    check_export(out, format)
    samples = Path(source) if is_set(Path(source)) else None
    if sets := sorted(str(each) for each in Path(source).glob("synthetic/*") if is_set(each)):
        raise UserError(f"{source} is a run directory; give one of its sets, as in {sets[0]}")
    if samples is None and data is not None:
        raise UserError(
            f"--data goes with a set, and {source} is no folder of shards with a plan.parquet; mend the path, or drop "
            "--data"
        )
    real = source if samples is None else data
    check_folder(out, real or "")
    written = write_export(out, format, samples=samples, data=None if real is None else reading.load(real))
    print(f"{written.count():,} images, {written.count(source='synthetic'):,} of them synthetic; card: {out / README}")
    print(f"Images: {out}")
