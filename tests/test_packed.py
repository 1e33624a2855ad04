"""Images inside shards, read one by one."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tailsmith.data import packed
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.images import Images
from tailsmith.data.packed import (
    Damaged,
    check_images,
    is_packed,
    location,
    read_packed,
    read_rows,
    write_packed,
)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images, three to a row group."""
    path, images = tmp_path / "shard-00000.parquet", [png(20 * row) for row in range(10)]
    monkeypatch.setattr(packed, "ROW_GROUP_BYTES", 3.5 * sum(map(len, images)) / 10)
    write_packed(pd.DataFrame({"label": range(10), "image": images}), path, {"a": "b"})
    return path


def test_every_image_is_found_whatever_its_row_group(shard: Path) -> None:
    assert pq.read_metadata(shard).num_row_groups == 4
    assert pq.read_schema(shard).metadata[b"a"] == b"b"
    assert [read_packed(location(shard, row)) for row in range(10)] == [png(20 * row) for row in range(10)]


def test_small_images_share_a_row_group_and_large_ones_have_their_own(tmp_path: Path) -> None:
    for size, groups in ((1000, 1), (packed.ROW_GROUP_BYTES, 5)):
        write_packed(pd.DataFrame({"image": [bytes(size)] * 5}), tmp_path / f"{size}.parquet", {})
        assert pq.read_metadata(tmp_path / f"{size}.parquet").num_row_groups == groups


def test_a_dataset_reads_only_what_it_is_asked_for(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(
        [0] * 10, image_ids=[str(row) for row in range(10)], paths=[location(shard, r) for r in range(10)]
    )
    dataset, groups = Dataset(table, ("bag",)), []
    own = pq.ParquetFile.read_row_group

    def read(self: pq.ParquetFile, group: int, **options: object) -> object:
        groups.append(group)
        return own(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read)
    images = Images(dataset, 4, cache_budget=0)
    assert images[[9, 4]].float().mean((1, 2, 3)).tolist() == [180.0, 80.0]
    assert sorted(groups) == [1, 3]
    assert dataset.described(3) == f"{shard}#3"


def test_a_shard_that_was_written_again_is_read_anew(shard: Path) -> None:
    assert read_packed(location(shard, 0)) == png(0)
    write_packed(pd.DataFrame({"image": [png(7)]}), shard, {})
    assert read_packed(location(shard, 0)) == png(7)


def test_a_shard_that_is_gone_and_a_row_that_never_was(shard: Path) -> None:
    with pytest.raises(ValueError, match=r"has 10 images, none with the number 10"):
        read_packed(location(shard, 10))
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00000.parquet does not exist.*synthesize them again"):
        read_packed(location(shard, 0))


def test_a_damaged_shard_is_named(shard: Path) -> None:
    whole = shard.read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        shard.write_bytes(damaged)
        with pytest.raises(Damaged, match=r"shard-00000.parquet is damaged.*synthesize again: that sets the file"):
            read_packed(location(shard, 0))


def test_a_shard_says_what_was_written(shard: Path) -> None:
    rows, meta = read_rows(shard)
    assert rows["label"].tolist() == list(range(10)) and "image" not in rows
    assert rows["image_sha256"].tolist() == [hashlib.sha256(png(20 * row)).hexdigest() for row in range(10)]
    assert meta["a"] == "b" and len(meta["checksum"]) == 64
    check_images(shard)


def rewritten(shard: Path, **columns: list[object]) -> None:
    """As someone would who changes a column and keeps the rest, metadata and all."""
    table = pq.read_table(shard)
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(values, table.schema.field(name).type))
    pq.write_table(table, shard)


def test_changed_rows_and_changed_images_are_found(shard: Path) -> None:
    rewritten(shard, image=[png(1), *(png(20 * row) for row in range(1, 10))])
    read_rows(shard)  # which doesn't look at images
    with pytest.raises(Damaged, match=r"shard-00000.parquet is damaged \(an image differs from its hash\)"):
        check_images(shard)
    with pytest.raises(Damaged, match="an image differs from its hash"):
        read_packed(location(shard, 0))
    assert read_packed(location(shard, 1)) == png(20)
    rewritten(shard, image_sha256=[hashlib.sha256(png(1)).hexdigest(), *read_rows(shard)[0]["image_sha256"][1:]])
    with pytest.raises(Damaged, match="its rows differ from its checksum"):
        read_rows(shard)


def test_changed_metadata_is_found_and_another_encoding_is_the_same_shard(shard: Path) -> None:
    table = pq.read_table(shard)
    pq.write_table(table, shard, compression="zstd", row_group_size=2)
    assert read_rows(shard)[1]["a"] == "b"
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"a": b"c"}), shard)
    with pytest.raises(Damaged, match="its rows differ from its checksum"):
        read_rows(shard)


def test_any_flipped_bit_is_found_or_does_no_harm(shard: Path) -> None:
    whole, rng = shard.read_bytes(), np.random.default_rng(0)
    rows, meta = read_rows(shard)
    found = 0
    for byte in rng.integers(0, len(whole), 300).tolist():
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << int(rng.integers(8))
        shard.write_bytes(flipped)
        try:
            again, said = read_rows(shard)
            check_images(shard)
        except Damaged:
            found += 1
        else:  # without its checksum a shard isn't ours, as synthesis/shards.py says
            assert "checksum" not in said or (again.equals(rows) and said == meta)
    assert found > 200


def test_what_cannot_be_read_is_not_called_damaged(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pq, "ParquetFile", denied)
    with pytest.raises(ValueError, match=r"can't be read .Permission denied.; check the path") as caught:
        read_rows(shard)
    assert not isinstance(caught.value, Damaged)
    monkeypatch.undo()
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00000.parquet does not exist, or is gone"):
        read_rows(shard)
    shard.mkdir()
    with pytest.raises(ValueError, match="is no file, where a shard should be; move it out of the way"):
        read_rows(shard)


def test_ordinary_files_are_no_shards() -> None:
    assert is_packed("a/shard-00000.parquet#3")
    assert is_packed("runs#2/shard-00000.parquet#3")
    assert not is_packed("a/photo#3.jpg")
    assert not is_packed("images.parquet#1/photo.jpg")
    with pytest.raises(ValueError, match=r"photo.jpg is no image of a shard: expected PATH.parquet#ROW"):
        read_packed("photo.jpg")


def test_a_writer_that_fails_half_way_leaves_no_shard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def half(table: object, path: str, **options: object) -> None:
        Path(path).write_bytes(b"PAR1 half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(KeyboardInterrupt):
        write_packed(pd.DataFrame({"image": [b"a"]}), tmp_path / "shard-00000.parquet", {})
    assert list(tmp_path.iterdir()) == []
