"""The hand-out of shards to Ray's actors, with a stand-in for Ray: what it does itself is in tests/faults."""

from collections import deque
from types import SimpleNamespace

import pytest

from tailsmith.errors import UserError
from tailsmith.synthesis.engines import ray as engine
from tailsmith.synthesis.engines.config import Workers


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class Actor:
    """Answers as it was told to, and afterwards always with True."""

    def __init__(self, *answers):
        self.answers, self.got = deque(answers), []
        self.render = SimpleNamespace(remote=self._render)

    def _render(self, number):
        self.got.append(number)
        return Handed(self.answers.popleft() if self.answers else (True, ""))


class Handed:
    def __init__(self, answer):
        self.answer = answer


def get(handed):
    if isinstance(handed.answer, Exception):
        raise handed.answer
    return handed.answer


RAY = SimpleNamespace(
    wait=lambda handed, num_returns, timeout: (handed[:num_returns], handed[num_returns:]),
    get=get,
    exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError),
)


@pytest.fixture
def hand_out(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.time, "sleep", lambda seconds: None)
    job = SimpleNamespace(out=tmp_path, shards=(0, 1, 2, 3))
    return lambda *actors: engine._hand_out(RAY, job, list(actors), lambda images: None)


def test_each_shard_is_handed_out_until_it_is_there(hand_out):
    one, other = Actor((False, ""), RayError("its node is gone")), Actor()
    hand_out(one, other)
    assert set(one.got + other.got) == {0, 1, 2, 3} and len(one.got + other.got) == 4 + 2


def test_a_worker_that_fails_gets_no_more_and_the_others_go_on(hand_out):
    broken, sound = Actor(RayTaskError(RuntimeError("a broken card"))), Actor()
    hand_out(broken, sound)
    assert len(broken.got) == 1 and set(sound.got) == {0, 1, 2, 3}
    with pytest.raises(RuntimeError, match="all workers failed:\na broken card"):
        hand_out(Actor(RayTaskError(RuntimeError("a broken card"))))


@pytest.mark.parametrize(
    ("answer", "raised", "said"),
    [
        ((False, "make a new plan"), UserError, "make a new plan"),
        (RayTaskError(OSError(28, "No space left on device")), OSError, "No space left"),
    ],
)
def test_what_keeps_all_from_being_done_stops_all(answer, raised, said, hand_out):
    with pytest.raises(raised, match=said):
        hand_out(Actor(answer), Actor())


def test_workers_that_die_again_and_again_are_one_line(hand_out):
    with pytest.raises(UserError, match="Ray's workers die again and again; nothing already written is lost"):
        hand_out(Actor(*[RayError("gone")] * 20), Actor(*[RayError("gone")] * 20))


@pytest.mark.parametrize(
    ("there", "options", "wanted"),
    [
        ({"CPU": 16.0}, {}, {"num_cpus": 4.0}),
        ({"CPU": 2.0}, {}, {"num_cpus": 1.0}),
        ({"CPU": 16.0, "GPU": 8.0}, {}, {"num_gpus": 1.0}),
        ({"CPU": 16.0, "GPU": 8.0}, {"num_cpus": "2"}, {"num_gpus": 1.0, "num_cpus": 2.0}),
    ],
)
def test_what_a_worker_takes_of_the_cluster(there, options, wanted):
    ray = SimpleNamespace(cluster_resources=lambda: there)
    assert engine._resources(ray, Workers(4, "ray", options)) == wanted


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_cpus": "many"}, "engine_options.num_cpus should be a number, got 'many'"),
        ({"num_gpus": "1"}, "no node of the Ray cluster has room for a worker"),
    ],
)
def test_what_no_cluster_has_is_refused(options, said):
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0})
    with pytest.raises(ValueError, match=said):
        engine._resources(ray, Workers(1, "ray", options))
