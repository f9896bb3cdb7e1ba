"""Memory told before it is taken, and the ways to take less."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.core.errors import ResourceError
from medseg.core.geometry import Geometry
from medseg.inference.forecast import Job, choose_way, forecast, make_job, measure_mb
from medseg.inference.model import load_model
from medseg.inference.segment import Segmenter
from medseg.inference.way import Way
from tests.builders import make_plan

MB = 1 << 20


@pytest.fixture(scope="module")
def segmenter(tiny_run: Path) -> Segmenter:
    model = load_model(tiny_run, torch.device("cpu"))
    return Segmenter(model, model.infer)


JOB = Job(1, 2, 2, (512, 512, 100), (256, 256, 100))


@pytest.fixture
def steady_process(monkeypatch: pytest.MonkeyPatch):
    """What other tests left in memory is no part of a forecast here."""
    monkeypatch.setattr("medseg.inference.forecast.read_rss_mb", lambda: 500.0)


def windows_mb(count: int) -> float:
    return 100.0 * count


@pytest.mark.usefixtures("steady_process")
def test_the_parts_can_be_counted_by_hand(segmenter: Segmenter):
    found = forecast(segmenter, JOB, Way(4), windows_mb)
    # Slab axis: 16 of 256 planes of 256 x 100 are fewer voxels than 8 of 100 planes of 256 x 256.
    assert found.parts_mb["slab buffer"] == pytest.approx(4 * 4 * 16 * 256 * 100 / MB)
    assert found.parts_mb["windows"] == 400
    assert found.parts_mb["image"] == pytest.approx(2 * 256 * 256 * 100 / MB)
    assert found.parts_mb["class map"] == pytest.approx(25)
    assert found.loading_mb == pytest.approx(25 * 12)
    predicting = sum(found.parts_mb.values())
    assert found.peak_mb == pytest.approx(predicting) and "windows 400" in found.describe()


@pytest.mark.usefixtures("steady_process")
def test_maps_of_uncertainty_are_counted_while_predicting_and_while_writing(segmenter: Segmenter):
    plain = forecast(segmenter, JOB, Way(4), windows_mb)
    found = forecast(segmenter, replace(JOB, has_maps=True), Way(4), windows_mb)
    assert found.parts_mb["uncertainty maps"] == pytest.approx(4 * 256 * 256 * 100 / MB)
    assert found.writing_mb == pytest.approx(25 * (4 + 20) + 25) and found.writing_mb > plain.writing_mb


def test_the_first_step_down_is_fewer_windows_and_the_last_a_file(segmenter: Segmenter):
    ways = list(Way(4).step_down(has_gpu=False))
    assert ways == [Way(2), Way(1), Way(1, in_file=True), Way(4, in_file=True)]
    assert Way(1, blends_on_cpu=True) in Way(1).step_down(has_gpu=True)
    assert Way(1, True, True).describe() == "1 window at once, blended on the CPU, blended in a file"


@pytest.mark.usefixtures("steady_process")
def test_the_fastest_way_that_fits_is_taken(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segmenter, "way", Way(4))
    whole = forecast(segmenter, JOB, Way(4), windows_mb).peak_mb
    assert choose_way(segmenter, JOB, None, windows_mb).way == Way(4)
    assert choose_way(segmenter, JOB, whole - 90, windows_mb).way == Way(2)


def test_a_case_that_no_way_fits_is_refused_with_numbers(segmenter: Segmenter):
    with pytest.raises(ResourceError, match=r"--memory-gb allows 0\.00") as caught:
        choose_way(segmenter, JOB, 1.0, windows_mb)
    assert (caught.value.code, caught.value.exit_code) == ("INFER_MEMORY", 4)


def test_a_job_is_told_by_the_header(segmenter: Segmenter):
    grid = Geometry.of_spacing((10, 20, 30), (1.0, 1.0, 2.0))
    model = replace(segmenter.model, plan=make_plan(spacing_mm=(2.0, 2.0, 2.0)))
    job = make_job(grid, model, 2)
    assert (job.scan, job.grid) == ((10, 20, 30), (5, 10, 30))
    flat = replace(model, plan=make_plan(dims=2, patch=(8, 8, 1), spacing_mm=(2.0, 2.0, 9.0)))
    assert make_job(grid, flat, 2).grid == (5, 10, 30)


def test_the_growth_of_the_resident_set_is_seen():
    # More than malloc ever takes from what it has kept: fresh pages.
    assert measure_mb(lambda: np.ones(128 * MB // 8)) > 100
