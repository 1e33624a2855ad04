"""Requests -> images -> shard files. A shard that exists is done: that is resume, retry and distribution."""

import io
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from tailsmith.data.dataset import Dataset, make_table
from tailsmith.files import write_atomically
from tailsmith.guidance.criteria import ClassGaussians, get_criterion, mixture
from tailsmith.guidance.feedback import Classifier, FeedbackRecord, feedback
from tailsmith.synthesis.conditioning import drop_entries, embed_images, embedding_size
from tailsmith.synthesis.requests import Plan


@dataclass(frozen=True)
class Worker:
    """What it takes to fulfil requests: the pipeline, the real images, and the classifier that guides."""

    pipe: Any
    dataset: Dataset  # holds the conditioning images, by image_id
    classifier: Classifier | None  # None where no request has feedback
    gaussians: ClassGaussians | None = None
    batch_size: int = 64

    def render(self, requests: pd.DataFrame, settings: dict[str, Any]) -> Iterator[pd.DataFrame]:
        """Yield the requests batch by batch, with image (PNG), criterion_value, skipped_steps, seconds."""
        self._check(requests)
        requests = requests.reset_index(drop=True)
        embeddings = self._conditioning_embeddings(requests)
        for batch in self._batches(requests):
            begin = time.monotonic()
            images, record = self._sample(batch, embeddings[batch.index.tolist()], settings)
            skipped = np.bincount([skip.image for skip in record.skipped], minlength=len(batch))
            yield batch.assign(
                image=[encode_image(image) for image in images],
                criterion_value=self._criterion_values(batch, images),
                skipped_steps=skipped.astype(np.int64),
                seconds=(time.monotonic() - begin) / len(batch),
            )

    def _check(self, requests: pd.DataFrame) -> None:
        """Raise ValueError for requests that this worker lacks something for, before it samples."""
        if not hasattr(self.pipe, "image_noising_scheduler"):
            raise ValueError(
                f"synthesis needs an unCLIP pipeline with an image encoder, got {type(self.pipe).__name__}; "
                "around any other pipeline use tailsmith.feedback itself"
            )
        if self.classifier is None and bool((requests["feedback_scale"] > 0).any()):
            raise ValueError("the plan asks for feedback; give the classifier that guides")
        if self.classifier is not None:
            for name in requests["criterion"].unique():
                get_criterion(name, self.gaussians)

    def _batches(self, requests: pd.DataFrame) -> Iterator[pd.DataFrame]:
        """Runs of requests that can share a pipeline call: same guidance scale, same number of steps."""
        shared = requests.groupby(["guidance_scale", "num_inference_steps"], sort=False).ngroup()
        for _, run in requests.groupby((shared != shared.shift()).cumsum(), sort=False):
            for start in range(0, len(run), self.batch_size):
                yield run.iloc[start : start + self.batch_size]

    def _conditioning_embeddings(self, requests: pd.DataFrame) -> Tensor:
        """[n, D], zeros for text-only requests, with each request's own dropout."""
        embeddings = torch.zeros(len(requests), embedding_size(self.pipe))
        wanted = requests["conditioning_id"].dropna().unique().tolist()
        if not wanted:
            return embeddings
        embedded = dict(zip(wanted, self._embed(wanted), strict=True))
        columns = (requests[name] for name in ("conditioning_id", "embedding_dropout", "dropout_seed"))
        for row, (image_id, probability, seed) in enumerate(zip(*columns, strict=True)):
            if isinstance(image_id, str):
                embeddings[row] = drop_entries(embedded[image_id], float(probability), int(seed))
        return embeddings

    def _embed(self, image_ids: list[str]) -> Tensor:
        """CLIP embeddings of the dataset's images of these ids, [n, D] in fp32."""
        row_of = {name: row for row, name in enumerate(self.dataset.table["image_id"])}
        lost = [name for name in image_ids if name not in row_of]
        if lost:
            raise ValueError(f"the plan conditions on image {lost[0]!r}, which this dataset does not have")
        images = [self.dataset.image(row_of[name]) for name in image_ids]
        return embed_images(self.pipe, images).float().cpu()

    def _sample(
        self, batch: pd.DataFrame, embeddings: Tensor, settings: dict[str, Any]
    ) -> tuple[Tensor, FeedbackRecord]:
        """One pipeline call -> uint8 [N, 3, H, W]; every image has a generator of its own."""
        context = (
            feedback(
                self.pipe,
                self.classifier,
                batch["criterion"].tolist(),
                batch["feedback_scale"].tolist(),
                settings["feedback_every"],
                labels=batch["label"].tolist(),
                steps=settings["feedback_steps"],
                update=settings["feedback_update"],
                through=settings["feedback_through"],
                views=settings["feedback_views"],
                gaussians=self.gaussians,
            )
            if self.classifier is not None and bool((batch["feedback_scale"] > 0).any())
            else nullcontext(FeedbackRecord())
        )
        with context as record, torch.no_grad():
            images = self.pipe(
                image=None,
                prompt=batch["prompt"].tolist(),
                image_embeds=embeddings.to(self.pipe.device, self.pipe.unet.dtype),
                guidance_scale=float(batch["guidance_scale"].iloc[0]),
                num_inference_steps=int(batch["num_inference_steps"].iloc[0]),
                noise_level=0,
                generator=[torch.Generator().manual_seed(seed) for seed in batch["noise_seed"].tolist()],
                output_type="pt",
            ).images
        return (images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu(), record

    @torch.no_grad()
    def _criterion_values(self, batch: pd.DataFrame, images: Tensor) -> list[float]:
        """The criterion of the finished images, NaN without a classifier."""
        if self.classifier is None:
            return [float("nan")] * len(batch)
        names = batch["criterion"].tolist()
        logits, features = self.classifier(images.to(self.pipe.device).float() / 255)
        labels = torch.as_tensor(batch["label"].to_numpy(copy=True), device=logits.device)
        values: list[float] = mixture(names, self.gaussians)(logits, features, labels).tolist()
        return values


def encode_image(image: Tensor) -> bytes:
    """uint8 [3, H, W] -> PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.parquet"


def write_shard(results: pd.DataFrame, path: Path, meta: dict[str, str]) -> None:
    table = pa.Table.from_pandas(results, preserve_index=False).replace_schema_metadata(meta)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def read_shards(folder: Path, plan: Plan) -> pd.DataFrame:
    """The finished shards of a plan, in its order."""
    paths = [path for path in (shard_path(folder, number) for number in plan.shards) if path.exists()]
    if not paths:
        raise ValueError(f"no finished shard in {folder}; run `tailsmith synthesize` first")
    shards: list[pd.DataFrame] = [pq.read_table(path).to_pandas() for path in paths]
    return pd.concat(shards, ignore_index=True)


def synthetic_dataset(results: pd.DataFrame, like: Dataset) -> Dataset:
    """Shard rows as training rows of the same classes and attributes."""
    table = make_table(
        results["label"].to_numpy(),
        image_ids=[f"synthetic-{request}" for request in results["request_id"]],
        encoded=results["image"].tolist(),
        attributes=results["attribute"].to_numpy(),
        splits="train",
        sources="synthetic",
    )
    return Dataset(table, like.class_names, like.attribute_names, f"{like.name} (synthetic)", like.licence)
