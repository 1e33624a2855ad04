"""Requests -> images -> shard files. A shard that exists is done: that is resume, retry and distribution."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from tailsmith.classification.prediction import evaluation_mode
from tailsmith.contracts import Classifier, Criterion
from tailsmith.data.dataset import Dataset
from tailsmith.errors import UserError
from tailsmith.generation.conditioning import drop_entries, mixed
from tailsmith.generation.families import Family, check_conditioning, family_of
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.guidance.criteria import criterion_of, mixture
from tailsmith.guidance.feedback import FeedbackRecord, feedback
from tailsmith.randomness import noise_generator
from tailsmith.synthesis.black_images import RETRIES, is_black, retry_seed
from tailsmith.synthesis.memory import BatchSize
from tailsmith.synthesis.storage import Storage

log = logging.getLogger(__name__)


@dataclass
class Made:
    """The images of one batch of requests."""

    images: Tensor  # uint8 [N, 3, H, W]
    black: npt.NDArray[np.bool_]  # [N], shows nothing
    skipped_steps: npt.NDArray[np.int64]  # [N], guided steps that feedback left unguided

    def replace(self, rows: npt.NDArray[np.int64], others: "Made") -> None:
        self.images[torch.from_numpy(rows)] = others.images
        self.black[rows] = others.black
        self.skipped_steps[rows] = others.skipped_steps


@dataclass
class Worker:
    """What it takes to fulfil requests: the pipeline, the real images, and the classifier that guides."""

    pipe: Any
    dataset: Dataset  # holds the conditioning images, by image_id
    classifier: Classifier | None  # None where no request has feedback
    criteria: Mapping[str, Criterion] = field(default_factory=dict)  # by name; what isn't there needs the guide alone
    batch_size: int = 64  # at first; halved where memory runs out
    decoder: torch.nn.Module | None = None  # shows the classifier x0-hat; None = the pipeline's own
    storage: Storage = field(default_factory=Storage)
    guided_by: str = "image+text"  # what classifier-free guidance amplifies

    def __post_init__(self) -> None:
        self._fitting = BatchSize(self.batch_size)
        self.failed_in_a_row: set[str] = set()  # requests, since one was made

    def render(self, requests: pd.DataFrame, config: FeedbackConfig) -> Iterator[pd.DataFrame]:
        """Yield the requests batch by batch, with image (encoded), criterion_value, skipped_steps, retries, black and
        seconds.

        `config`: of the pipeline calls; criterion and scale are each request's own. A request's image doesn't depend on
        the others of its batch, nor on how many fit into memory.
        """
        requests = requests.reset_index(drop=True)
        family = self._check(requests, config)
        embeddings = self._conditioning_embeddings(requests, family)
        black: list[str] = []
        for run in _runs(requests):

            def make(rows: slice, run: pd.DataFrame = run) -> pd.DataFrame:
                batch = run.iloc[rows]
                return self._make(batch, embeddings[batch.index.tolist()], config, family)

            for _, results in self._fitting.over(len(run), make, self.pipe.maybe_free_model_hooks):
                black += results["request_id"][results["black"]].tolist()
                yield results
        if black:
            log.warning(
                "%d of %d images show nothing after %d retries, and are flagged (column black): %s",
                *(len(black), len(requests), RETRIES, ", ".join(black[:5]) + (", ..." if len(black) > 5 else "")),
            )

    def _check(self, requests: pd.DataFrame, config: FeedbackConfig) -> Family:
        """The pipeline's family; ValueError for requests that this worker lacks something for, before it samples."""
        family = family_of(self.pipe)
        check_conditioning(type(self.pipe).__name__, family, _conditionings(requests))
        if self.guided_by == "text" and family.embed is not None and family.guided_by_text is None:
            raise UserError(
                f"{type(self.pipe).__name__} can't be guided by the text alone; plan with guided_by='image+text'"
            )
        guided = bool((requests["feedback_scale"] > 0).any())
        if guided and self.classifier is None:
            raise UserError("the plan asks for feedback; give the classifier that guides")
        if guided and self.decoder is None and config.decoder != "own":
            raise UserError(f"the plan looks through the decoder {config.decoder!r}; give the worker one")
        if self.classifier is not None:
            missing = [name for name in requests["criterion"].unique() if name not in self.criteria]
            self.criteria = {**self.criteria, **{name: criterion_of(name, self.classifier) for name in missing}}
        return family

    def _conditioning_embeddings(self, requests: pd.DataFrame, family: Family) -> Tensor:
        """[n, ...] in fp32, zeros for text-only requests; mixed with another image's, with each request's dropout."""
        embeddings = torch.zeros(len(requests), *family.embedding_shape(self.pipe))
        planned = conditioning_hashes(requests)
        if not planned:
            return embeddings
        embedded = dict(zip(planned, self._embed(list(planned), list(planned.values()), family), strict=True))
        for row, request in enumerate(requests.itertuples()):
            if isinstance(request.conditioning_id, str):
                own = embedded[request.conditioning_id]
                if "mixing" in requests:
                    own = mixed(
                        *(str(request.mixing), own, embedded[str(request.mixing_id)]),
                        *(float(request.mixing_weight), float(request.mixing_start)),  # type: ignore[arg-type]
                    )
                embeddings[row] = drop_entries(own, float(request.embedding_dropout), int(request.dropout_seed))  # type: ignore[arg-type]
        return embeddings

    def _embed(self, image_ids: list[str], hashes: list[str | None], family: Family) -> Tensor:
        """The embeddings of the dataset's images of these ids, [n, ...] in fp32; they are those that were planned."""
        assert family.embed is not None  # as _check has seen
        row_of = {name: row for row, name in enumerate(self.dataset.table["image_id"])}
        lost = [name for name in image_ids if name not in row_of]
        if lost:
            raise UserError(f"the plan conditions on image {lost[0]!r}, which this dataset does not have")
        for image_id, planned in zip(image_ids, hashes, strict=True):
            if isinstance(planned, str) and self.dataset.content_hash(row_of[image_id]) != planned:
                raise UserError(
                    f"the conditioning image {image_id!r} is not the one that the plan was made with (its content "
                    "differs); bring that one back, or make a new plan and synthesize it into another folder"
                )
        embed = family.embed

        def some(rows: slice) -> Tensor:
            return embed(self.pipe, [self.dataset.image(row_of[name]) for name in image_ids[rows]]).float().cpu()

        free = self.pipe.maybe_free_model_hooks
        embedded = [each for _, each in BatchSize(64).over(len(image_ids), some, free)]
        free()  # under CPU offload the encoder would stay on the device
        return torch.cat(embedded)

    def _make(self, batch: pd.DataFrame, embeddings: Tensor, config: FeedbackConfig, family: Family) -> pd.DataFrame:
        """The requests of one batch with their results; what shows nothing is made again with another seed."""
        begin = time.monotonic()
        made = self._sample(batch, embeddings, config, family)
        retries = np.zeros(len(batch), dtype=np.int64)
        for attempt in range(1, RETRIES + 1):
            rows = np.flatnonzero(made.black)
            if not len(rows):
                break
            again = batch.iloc[rows]
            again = again.assign(noise_seed=[retry_seed(seed, attempt) for seed in again["noise_seed"].tolist()])
            made.replace(rows, self._sample(again, embeddings[torch.from_numpy(rows)], config, family))
            retries[rows] = attempt
        return batch.assign(
            image=[self.storage.encode(image) for image in made.images],
            criterion_value=self._criterion_values(batch, made.images),
            skipped_steps=made.skipped_steps,
            retries=retries,
            black=made.black,
            seconds=(time.monotonic() - begin) / len(batch),
        )

    def _sample(self, batch: pd.DataFrame, embeddings: Tensor, config: FeedbackConfig, family: Family) -> Made:
        """One pipeline call; every image has a generator of its own."""
        call = family.arguments(self.pipe, batch["prompt"].tolist(), embeddings, float(batch["guidance_scale"].iloc[0]))
        by_text = (family.guided_by_text if self.guided_by == "text" else None) or nullcontext
        with self._feedback(batch, config) as record, family.around(self.pipe), by_text(self.pipe), torch.no_grad():
            images = self.pipe(
                **call,
                num_inference_steps=int(batch["num_inference_steps"].iloc[0]),
                generator=[noise_generator(seed) for seed in batch["noise_seed"].tolist()],
                output_type="pt",
            ).images
        images = images.float() / 2 + 0.5 if family.centred else images.float()
        at = {(skip.step, skip.image) for skip in record.skipped}  # Heun may ask twice in a step
        skipped = np.bincount([image for _, image in at], minlength=len(batch)).astype(np.int64)
        black = is_black(images).cpu().numpy()
        levels = (torch.nan_to_num(images).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return Made(levels, black, skipped)

    def _feedback(self, batch: pd.DataFrame, config: FeedbackConfig) -> AbstractContextManager[FeedbackRecord]:
        """The context of one pipeline call: feedback where a request asks for it."""
        if self.classifier is None or not bool((batch["feedback_scale"] > 0).any()):
            return nullcontext(FeedbackRecord())
        return feedback(
            self.pipe,
            self.classifier,
            self._criteria_of(batch),
            batch["feedback_scale"].tolist(),
            labels=batch["label"].tolist(),
            config=config,
            decoder=self.decoder,
        )

    def _criteria_of(self, batch: pd.DataFrame) -> list[Criterion]:
        """One per request."""
        return [self.criteria[name] for name in batch["criterion"]]

    @torch.no_grad()
    def _criterion_values(self, batch: pd.DataFrame, images: Tensor) -> list[float]:
        """The criterion of the finished images, NaN without a classifier."""
        if self.classifier is None:
            return [float("nan")] * len(batch)
        device = self.pipe._execution_device
        labels = torch.as_tensor(batch["label"].to_numpy(copy=True), device=device)
        with evaluation_mode(self.classifier) if isinstance(self.classifier, torch.nn.Module) else nullcontext():
            values: list[float] = mixture(self._criteria_of(batch))(images.to(device).float() / 255, labels).tolist()
        return values


def conditioning_hashes(requests: pd.DataFrame) -> dict[str, str | None]:
    """Id -> planned content hash of every real image that some request is conditioned on."""
    planned: dict[str, str | None] = {}
    for name in ("conditioning", "mixing"):
        if f"{name}_id" in requests:
            there = requests[requests[f"{name}_id"].notna()]
            planned |= dict(zip(there[f"{name}_id"], there[f"{name}_sha256"], strict=True))
    return planned


def _runs(requests: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Requests that can share a pipeline call, in their order: same guidance scale, same number of steps."""
    shared = requests.groupby(["guidance_scale", "num_inference_steps"], sort=False).ngroup()
    for _, run in requests.groupby((shared != shared.shift()).cumsum(), sort=False):
        yield run


def _conditionings(requests: pd.DataFrame) -> list[str]:
    """What the requests are conditioned on: "text", "image", "image+text", each once."""
    has_image, has_text = requests["conditioning_id"].notna(), requests["prompt"] != ""
    kinds = np.select([has_image & has_text, has_image], ["image+text", "image"], "text")
    return sorted(set(kinds.tolist()))
