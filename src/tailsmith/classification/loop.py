"""The one training loop: all stages of all methods, as a generator of step records; checkpoints between its steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import torch

from tailsmith.classification import processes
from tailsmith.classification.checkpoint import Checkpoint, CheckpointFile, part, parts
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.heads import LINEAR
from tailsmith.classification.methods.contract import Finish, Stage
from tailsmith.classification.selection import Selection, score
from tailsmith.classification.stage_run import Data, StageRun, new_accelerator, review
from tailsmith.errors import UserError
from tailsmith.interruption import Interruption


@dataclass(frozen=True)
class StepRecord:
    """One step; the last record carries the classifier."""

    step: int  # 1..steps, over all stages
    steps: int
    loss: float  # mean over the global batch
    learning_rate: float
    validation: float | None = None  # accuracy in % that selects, where the step was evaluated
    selected: float | None = None  # there also: that of the classifier selected so far
    classifier: Classifier | None = None  # on the last step: the one selected on validation, in evaluation mode


def run_stages(
    stages: Sequence[Stage],
    classifier: Classifier,
    data: Data,
    file: CheckpointFile | None = None,
    final: Finish | None = None,
) -> Iterator[StepRecord]:
    """Train one stage after the other, from `classifier` on; `final` makes what is kept of the one selected.

    A training that goes on from a checkpoint yields the records of before that were evaluated, and then its own. With a
    `file`, Ctrl-C and SIGTERM wait for the step and its checkpoint and then end the training; a second one
    doesn't wait. The file is left where it is: whoever keeps the classifier removes it.
    """
    device = new_accelerator().device  # first of all: it joins torchrun's processes
    training = _Training(stages, classifier, data, final)
    found = None if file is None else _read(file, device)
    if found is not None:
        training.load(found, device)
        yield from training.evaluated
    with Interruption() if file is not None else nullcontext(Interruption()) as interruption:
        before, run = 0, None
        for stage in stages:
            if training.step < before + stage.config.steps:
                run = training.stage_run(stage, before, found)
                for record in training.records(run, before, interruption):
                    due = file is not None and record.step % file.every == 0 and record.step < record.steps
                    if file is not None and (due or training.stopping):
                        file.write(training.checkpoint(run))
                    yield record
                    if training.stopping:
                        raise interruption.error()
            before += stage.config.steps
        if file is not None and run is not None and interruption.requested is not None:  # in the last step
            file.write(training.checkpoint(run))
            raise interruption.error()


def _read(file: CheckpointFile, device: torch.device) -> Checkpoint | None:
    """The checkpoint, if there is one; ValueError where not all processes see the same."""
    found = file.read()
    step = 0 if found is None else int(found.progress["step"])
    if int(processes.summed(torch.tensor(step, device=device))) != step * processes.count():
        raise UserError(f"the processes of this training see different files at {file.path}; use a folder they share")
    return found


class _Training:
    """Where a training is."""

    def __init__(self, stages: Sequence[Stage], untrained: Classifier, data: Data, final: Finish | None) -> None:
        self.steps = sum(stage.config.steps for stage in stages)
        self._untrained, self._data, self._final = untrained, data, final
        self._select_by = stages[-1].config.select_by
        self.selection = Selection(copy.deepcopy(untrained))  # `load` writes into it
        self.step = 0
        self.evaluated: list[StepRecord] = []
        self.stopping = False  # agreed upon by all processes

    def stage_run(self, stage: Stage, before: int, found: Checkpoint | None) -> StageRun:
        """The stage at its beginning, or where the checkpoint found it; `before` steps lie behind it."""
        if self.step == before:
            self.selection.begin(anew=not stage.earlier_may_win)
        selected = self.selection.classifier
        run = StageRun(stage, self._untrained if stage.anew else selected, selected, self._data)
        if found is not None and self.step > before:
            run.load_state_dict(part(found.tensors, "run"))
        return run

    def records(self, run: StageRun, before: int, interruption: Interruption) -> Iterator[StepRecord]:
        """The steps of a stage that are left."""
        config = run.stage.config
        for step in range(self.step - before + 1, config.steps + 1):
            loss, self.stopping = run.step(step, before, interruption.requested is not None)
            self.step = before + step
            record = StepRecord(self.step, self.steps, loss, run.learning_rate)
            if step == config.steps or step % config.evaluate_every == 0:
                candidate = run.candidate()
                score = run.score(candidate)
                self.selection.offer(candidate, score)
                record = replace(record, validation=score, selected=self.selection.score)
                self.evaluated.append(record)
            yield self._finished(record) if self.step == self.steps else record

    def _finished(self, record: StepRecord) -> StepRecord:
        """The last record with the classifier; where a final step makes it, with that one's score."""
        if self._final is None:
            return replace(record, classifier=self.selection.finished())
        device = new_accelerator().device
        kept = self._final(copy.deepcopy(self.selection.finished()), review(self._data, self._select_by, device))
        known = score(kept, self._data.validation, self._select_by, device)
        return replace(record, selected=known, classifier=kept.requires_grad_(True).eval())

    def checkpoint(self, run: StageRun) -> Checkpoint:
        tensors = parts({"run": run.state_dict(), "selected": self.selection.classifier.module.state_dict()})
        records = [asdict(replace(record, classifier=None)) for record in self.evaluated]
        progress = {"step": self.step, "score": self.selection.score, "evaluated": records}
        return Checkpoint(tensors, {**progress, "head": self.selection.classifier.head})

    def load(self, found: Checkpoint, device: torch.device) -> None:
        self.step, self.selection.score = found.progress["step"], found.progress["score"]
        if found.progress["head"] != LINEAR:  # a stage behind this step has put another one there
            self.selection.classifier.put_head(found.progress["head"])
        self.selection.classifier.module.load_state_dict(part(found.tensors, "selected"))
        self.selection.classifier.to(device)
        self.evaluated = [StepRecord(**record) for record in found.progress["evaluated"]]
        if self.step == self.steps:
            self.evaluated[-1] = self._finished(self.evaluated[-1])
