"""Out of memory: batches are halved, the images stay the same, and the pipeline is left as it was."""

import logging
from contextlib import contextmanager

import pytest
import torch

import tailsmith
from rendering import DATASET, largest_difference, render, tiny_plan
from tailsmith.devices import is_out_of_memory
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.memory import BatchSize
from tailsmith.synthesis.worker import Worker

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    MemoryError(),
]


@contextmanager
def room_for(module, images, error=OUT_OF_MEMORY[0]):
    """The module's calls with more inputs than that fail; yields the sizes of all calls."""
    sizes = []

    def refuse(_, arguments):
        sizes.append(len(arguments[0]))
        if sizes[-1] > images:
            raise error

    hook = module.register_forward_pre_hook(refuse)
    try:
        yield sizes
    finally:
        hook.remove()


def state_of(pipe):
    weights = {name: weight.requires_grad for name, weight in pipe.unet.named_parameters()}
    return set(vars(pipe)), set(vars(pipe.scheduler)), weights, pipe.unet.training, torch.is_grad_enabled()


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:12])
def test_errors_that_mean_memory(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("Expected all tensors to be on the same device"))


def test_batches_are_halved_and_stay_small():
    tried = []

    def make(rows):
        tried.append(rows.stop - rows.start)
        if tried[-1] > 3:
            raise OUT_OF_MEMORY[1]
        return list(range(rows.start, rows.stop))

    freed = []
    batches = BatchSize(16)
    made = [image for _, some in batches.over(10, make, lambda: freed.append(1)) for image in some]
    assert made == list(range(10))
    assert tried == [10, 5, 3, 3, 3, 1]
    assert len(freed) == 2
    tried.clear()
    assert len(list(batches.over(7, make, list))) == 3
    assert tried == [3, 3, 1]  # remembered


@pytest.mark.parametrize("error", OUT_OF_MEMORY[:2], ids=["device", "cpu"])
@pytest.mark.parametrize("scale", [0.0, 0.02])
def test_a_worker_short_of_memory_makes_the_same_images(scale, error, pipe, classifier, caplog):
    plan = tiny_plan(feedback_scale=scale)
    expected = render(Worker(pipe, DATASET, classifier), plan)
    worker, before = Worker(pipe, DATASET, classifier, batch_size=8), state_of(pipe)
    with room_for(pipe.unet, 6, error) as sizes, caplog.at_level(logging.WARNING, "tailsmith"):  # guidance doubles
        results = render(worker, plan)
    assert results["request_id"].tolist() == expected["request_id"].tolist()
    assert largest_difference(results, expected) <= 1
    assert [size for size in sizes if size > 6] == [16, 8]
    assert max(sizes[sizes.index(8) + 1 :]) == 4
    assert "out of memory; going on with 2 images at a time" in caplog.text
    with room_for(pipe.unet, 6) as sizes:
        render(worker, plan)
    assert max(sizes) == 4
    assert state_of(pipe) == before


def test_the_encoder_of_the_conditioning_images_may_run_out_as_well(pipe):
    plan = tiny_plan(feedback_scale=0.0)
    expected = render(Worker(pipe, DATASET, None), plan)
    with room_for(pipe.image_encoder.vision_model.embeddings.patch_embedding, 2) as sizes:
        assert largest_difference(render(Worker(pipe, DATASET, None), plan), expected) <= 1
    assert 2 in sizes


def test_as_few_images_are_decoded_at_a_time_as_the_plan_says(pipe, classifier):
    sizes = []
    hook = classifier.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    few, all_at_once = tiny_plan(feedback_decode_batch_size=3), tiny_plan()
    made = render(Worker(pipe, DATASET, classifier), few)
    steps = [1, *(3, 3, 3, 1) * 2, 10]  # the check before sampling, two guided steps, the finished images
    assert sizes == steps
    expected = render(Worker(pipe, DATASET, classifier), all_at_once)
    hook.remove()
    assert sizes == [*steps, 1, 10, 10, 10]
    assert largest_difference(made, expected) <= 1
    with pytest.raises(ValueError, match=r"feedback\.decode_batch_size should be at least 1, got 0"):
        tailsmith.plan(DATASET, 8, config=SynthesisConfig(feedback=FeedbackConfig(decode_batch_size=0)))


def test_too_little_for_one_image_is_an_error_that_says_what_helps(pipe, classifier):
    before = state_of(pipe)
    message = (
        r"not enough memory for one image \(CUDA out of memory.*\); load the generator in half precision .*offload"
    )
    with room_for(pipe.unet, 1), pytest.raises(ValueError, match=message):
        render(Worker(pipe, DATASET, classifier), tiny_plan())
    assert state_of(pipe) == before
    assert len(render(Worker(pipe, DATASET, classifier), tiny_plan())) == 10


def test_other_errors_are_not_swallowed(pipe):
    with room_for(pipe.unet, 6, RuntimeError("shapes differ")), pytest.raises(RuntimeError, match="shapes differ"):
        render(Worker(pipe, DATASET, None), tiny_plan(feedback_scale=0.0))
