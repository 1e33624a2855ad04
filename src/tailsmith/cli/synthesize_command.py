"""The command that makes a plan's images, alone or with others, and what is said of requests that were given up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from tailsmith.cli.options import Reading, Rendering
from tailsmith.cli.text import rendered_text
from tailsmith.errors import UserError

GIVEN_UP = 3  # the exit code where all was done but for some requests
SHOWN = 5
_RENDERING, _READING = Rendering(), Reading()
log = logging.getLogger(__name__)


def synthesize(
    plan: Path,  # written by `tailsmith plan`
    *,
    data: str,  # the data the plan was made for: it holds the conditioning images
    out: Path,  # folder for the shards
    classifier: Path | None = None,  # folder of the classifier that guides; needed where the plan has feedback
    shards: int | str | None = None,  # only these: 3, or 0,1,2, or 0-9; None = all
    rendering: Rendering = _RENDERING,
    reading: Reading = _READING,
) -> int:
    """Make the images of a plan, shard by shard; the same command again goes on where it stopped."""
    from tailsmith import devices
    from tailsmith.classification.classifier import load_classifier, on_accelerator
    from tailsmith.runs.outputs import check_folder
    from tailsmith.synthesis.fulfilment import synthesize
    from tailsmith.synthesis.plan import Plan
    from tailsmith.synthesis.plan_identity import said
    from tailsmith.synthesis.planning import with_dtype
    from tailsmith.synthesis.sets import chosen_shards, plan_in, rendered

    workers = rendering.crew
    devices.use(rendering.device)
    if rendering.batch_size < 1:
        raise UserError(f"batch_size should be at least 1, got {rendering.batch_size}")
    check_folder(out, data)
    given = Plan.read(plan)
    requests = plan_in(out, given if rendering.dtype is None else with_dtype(given, rendering.dtype))
    devices.chosen_dtype(said(requests.meta["synthesis"], "dtype"))
    chosen = requests.shards if shards is None else chosen_shards(str(shards), requests.shards)
    guide = on_accelerator(load_classifier(classifier)) if classifier else None
    dataset = reading.load(data)
    synthesize(
        requests,
        dataset,
        out,
        classifier=guide,
        batch_size=rendering.batch_size,
        shards=chosen,
        workers=workers,
    )
    made = rendered(out, chosen)
    print(f"{rendered_text(made)}\nImages: {out}")
    return said_of_given_up(made["given_up"])


def said_of_given_up(errors: Mapping[str, str]) -> int:
    """The exit code, once the first of these requests and their errors are in the log."""
    for request, error in list(errors.items())[:SHOWN]:
        log.error("request %s was given up: %s", request, error)
    if errors:
        log.error(
            "%d of the requests were given up, the others are there; column error of the shards has the reasons. "
            "Remove a shard to have all of it tried again",
            len(errors),
        )
    return GIVEN_UP if errors else 0
