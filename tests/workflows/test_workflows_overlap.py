"""Cases in flight: what overlaps, what waits, and what becomes of an error."""

import threading
from dataclasses import dataclass, field

import pytest

from medseg.core.errors import ConfigError
from medseg.workflows.overlap import run_stages
from medseg.workflows.progress import Progress, estimate_left, word_left
from medseg.workflows.shard import Shard, parse_shard

LIMIT_S = 20  # a test that would hang fails


@dataclass
class Fakes:
    """Stages that note what happened, and wait for one another where a test says so."""

    roomy: bool = True
    bad: tuple[str, int] = ("", -1)
    events: list[tuple[str, int]] = field(default_factory=list)
    waits: dict[tuple[str, int], threading.Event] = field(default_factory=dict)
    sets: dict[tuple[str, int], threading.Event] = field(default_factory=dict)
    threads: dict[str, set[int]] = field(default_factory=dict)

    def _do(self, what: str, index: int) -> int:
        self.threads.setdefault(what, set()).add(threading.get_ident())
        self.events.append((what, index))
        if (what, index) in self.sets:
            self.sets[what, index].set()
        if (what, index) in self.waits:
            assert self.waits[what, index].wait(LIMIT_S), f"{what} {index} waited in vain"
        if self.bad == (what, index):
            raise OSError(f"{what} {index}")
        self.events.append((f"{what} done", index))
        return index

    def read(self, index: int) -> int:
        return self._do("read", index)

    def is_roomy(self, step: int) -> bool:
        return self.roomy

    def predict(self, step: int) -> int:
        return self._do("predict", step)

    def write(self, step: int) -> int:
        return self._do("write", step)

    def order(self, *events: tuple[str, int]) -> bool:
        places = [self.events.index(event) for event in events]
        return places == sorted(places)


def run(fakes: Fakes, count: int = 3, lanes: int = 2) -> list[int]:
    told: list[int] = []
    run_stages(count, fakes, told.append, lanes=lanes)
    return told


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_next_is_read_and_the_last_written_while_one_is_predicted(lanes: int):
    for event in (("read", 2), ("write", 0)):
        # Case 1 is predicted only once its neighbour's stage has begun: one after the other it would hang.
        begun = threading.Event()
        assert run(Fakes(sets={event: begun}, waits={("predict", 1): begun}), lanes=lanes) == [0, 1, 2]


def test_with_two_lanes_reading_and_writing_meet():
    writing, reading = threading.Event(), threading.Event()
    sets = {("write", 0): writing, ("read", 2): reading}
    waits = {("read", 2): writing, ("write", 0): reading}
    assert run(Fakes(sets=sets, waits=waits)) == [0, 1, 2]


def test_with_one_lane_reading_and_writing_share_a_thread():
    fakes = Fakes()
    run(fakes, lanes=1)
    assert fakes.threads["read"] == fakes.threads["write"] and len(fakes.threads["read"]) == 1
    assert fakes.threads["predict"] == {threading.get_ident()}


def test_no_more_than_one_case_is_ahead_and_one_behind():
    fakes = Fakes()
    run(fakes, count=6)
    for index in range(4):
        assert fakes.order(("predict done", index), ("read", index + 2))
        assert fakes.order(("write done", index), ("predict", index + 2))


def test_without_room_one_case_follows_the_other():
    fakes = Fakes(roomy=False)
    assert run(fakes) == [0, 1, 2]
    stages = ("read", "read done", "predict", "predict done", "write", "write done")
    assert fakes.events == [(what, index) for index in range(3) for what in stages]


def test_a_case_that_needs_all_the_memory_waits_for_what_is_being_written():
    class Tight(Fakes):
        def is_roomy(self, step: int) -> bool:
            return step != 1

    fakes = Tight()
    assert run(fakes) == [0, 1, 2]
    assert fakes.order(("write done", 0), ("predict", 1)) and fakes.order(("write done", 1), ("read", 2))


@pytest.mark.parametrize(("stage", "told"), [("read", [0]), ("predict", [0]), ("write", [0])])
def test_an_error_of_the_machine_ends_all_after_what_is_written_is_whole(stage: str, told: list[int]):
    fakes, found = Fakes(bad=(stage, 1)), []
    with pytest.raises(OSError, match=f"{stage} 1"):
        run_stages(4, fakes, found.append, lanes=2)
    assert [index for index in found if index < 1] == told
    assert ("write done", 0) in fakes.events and ("predict", 3) not in fakes.events


def test_an_interrupt_leaves_what_is_being_written_whole():
    class Interrupted(Fakes):
        def predict(self, step: int) -> int:
            if step == 1:
                raise KeyboardInterrupt
            return super().predict(step)

    fakes, told = Interrupted(), []
    with pytest.raises(KeyboardInterrupt):
        run_stages(3, fakes, told.append, lanes=1)
    assert told == [0] and ("write done", 0) in fakes.events


def test_no_case_is_no_work():
    assert run(Fakes(), count=0) == []


# ---- shards ---------------------------------------------------------------------------------------


def test_shards_divide_the_cases_without_rest():
    cases = list("abcdefg")
    parts = [Shard(number, 3).take(cases) for number in (1, 2, 3)]
    assert parts == [list("adg"), list("be"), list("cf")]
    assert Shard().take(cases) == cases


def test_each_shard_has_a_report_of_its_own():
    assert parse_shard("2/8").report_name == "report_2_of_8.json"
    assert parse_shard(None).report_name == parse_shard("1/1").report_name == "report.json"


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "1/2/3", "-1/2", " 1/2", ""])
def test_a_wrong_shard_is_refused(text: str):
    with pytest.raises(ConfigError) as caught:
        parse_shard(text)
    assert caught.value.code == "SHARD_INVALID"


# ---- the remaining time ---------------------------------------------------------------------------


def test_the_time_left_goes_by_work_and_not_by_cases():
    # A case of 10 windows took 20 s, so the two ahead, of 30 and 60, will take 180 s.
    assert estimate_left([10, 30, 60], [True], 20.0) == pytest.approx(180.0)


def test_skipped_cases_tell_nothing_of_the_pace():
    assert estimate_left([50, 10, 10], [False, True], 5.0) == pytest.approx(5.0)
    assert estimate_left([50, 10], [False], 5.0) is None
    assert estimate_left([10], [], 0.0) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.4, ""),
        (41, "41 s left"),
        (150, "2 min left"),
        (5400, "90 min left"),
        (9000, "2.5 h left"),
    ],
)
def test_the_time_left_in_words(seconds: float | None, words: str):
    assert word_left(seconds) == words


def test_silent_progress_takes_works_and_notes(capfd: pytest.CaptureFixture[str]):
    with Progress().track("infer", 2, [1, 2]) as advance:
        assert advance("a", is_free=True) is None
    assert capfd.readouterr() == ("", "")
