"""Memory told before it is taken, and the ways to take less."""

from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg.core.errors import ResourceError
from medseg.core.geometry import Geometry
from medseg.inference import forecast as forecast_module
from medseg.inference.forecast import (
    Job,
    _refine_mb,
    choose_way,
    forecast,
    make_job,
    measure_mb,
    measure_windows,
)
from medseg.inference.model import load_model
from medseg.inference.network import count_values
from medseg.inference.predict import Ensemble
from medseg.inference.refine import apply_refine
from medseg.inference.refine.crf import crf
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


@pytest.mark.usefixtures("steady_process")
def test_probabilities_are_counted_for_each_thread(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    plain = forecast(segmenter, JOB, Way(4), windows_mb)
    found = forecast(segmenter, replace(JOB, has_probabilities=True), Way(4), windows_mb)
    # A plane of 256 x 100 logits of 3 classes, and 4 arrays of 3 x 512 x 512 probabilities.
    assert found.parts_mb["probabilities"] == pytest.approx(2 * 4 * (3 * 256 * 100 + 4 * 3 * 512 * 512) / MB)
    assert found.writing_mb == plain.writing_mb + 32


@pytest.mark.usefixtures("steady_process")
def test_refinement_is_counted_as_if_all_voxels_took_part(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(segmenter, "settings", segmenter.settings.model_copy(update={"refine": ("crf",)}))
    found = forecast(segmenter, JOB, Way(4), windows_mb)
    # What `crf` says of 3 classes: 30 + 4 (4 x 3 + 3 channels) bytes a voxel, 32 x 3 more, and 32 MiB.
    assert found.parts_mb["refinement"] == pytest.approx((30 + 60 + 96) * 25 / 4 + 32)


def test_refinement_of_regions_is_counted_one_by_one():
    # (30 + 4 (4 x 2 + 3) + 32 x 2) for a region against its complement, 16 for each of 3 that are held
    assert _refine_mb(3, 1, MB, are_regions=True) == 138 + 48 + 32


def test_refinement_takes_no_more_than_was_told():
    shape = (48, 48, 48)
    chances = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    chances /= chances.sum(0)
    grid = Geometry.of_spacing(shape, (1.0, 1.0, 1.0))
    image = chances[:1].half()
    step = partial(crf, band_mm=None, iterations=1, max_neighbours=8)
    work = partial(apply_refine, [step], chances, image, grid)
    work()
    assert measure_mb(work) <= _refine_mb(2, 1, prod(shape), are_regions=False)


@pytest.mark.usefixtures("steady_process")
def test_in_a_file_outputs_of_views_take_no_memory(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch):
    members = [segmenter.ensemble.members[0]] * 5
    monkeypatch.setattr(
        segmenter, "ensemble", Ensemble(members, (0,), activation=partial(torch.softmax, dim=1))
    )
    output = 4 * 3 * 4 * 16 * 16 * 8 / MB  # of 4 windows
    whole, filed = (
        forecast(segmenter, JOB, Way(4, in_file=is_filed), windows_mb) for is_filed in (False, True)
    )
    assert whole.parts_mb["windows"] == 400
    assert filed.parts_mb["windows"] == pytest.approx(400 - 9 * output)


@pytest.mark.parametrize(
    ("limit_mb", "sizes", "told"),
    [
        (None, ["4 whole", "4 whole"], 4 * 2048 + 10),
        (1e9, [1, 1, 8, "whole", "4 whole", "4 whole"], 4 * 2048 + 10),
        (3000, [1, 1, 8, "whole"], 4 * 2048 + 10),  # one window fits, four do not
        (1000, [1, 1, 8], 4 * 2048 + 10),  # not one fits
        (20, [1, 1], None),  # not an eighth of one
    ],
)
def test_windows_are_measured_from_small_to_large_and_no_further_than_fits(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, limit_mb: float | None, sizes: list, told: float
):
    whole, seen = 16 * 16 * 8, []

    def measure(segmenter: Segmenter, trial: tuple) -> float:
        size = trial[0] * prod(trial[1])
        seen.append({4 * whole: "4 whole", whole: "whole", whole // 8: 8, whole // 64: 1}[size])
        return size + 10  # a MB a voxel, and a constant

    monkeypatch.setattr(forecast_module, "_measure_pass", measure)
    monkeypatch.setattr(forecast_module, "small_window", lambda plan: (4, 4, 2))
    found = measure_windows(segmenter, 4, limit_mb)
    assert seen == sizes
    assert found == pytest.approx(told) if told is not None else found > limit_mb


def test_where_no_smaller_window_is_known_a_whole_one_is_the_first():
    assert forecast_module._list_trials((8, 8, 1), (8, 8, 1), 2) == [(1, (8, 8, 1))]
    assert forecast_module._list_trials((40, 24, 7), (8, 8, 7), 1) == [(1, (12, 8, 7)), (1, (20, 12, 7))]


def test_a_window_on_a_gpu_takes_none_of_this_memory(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch):
    fresh = Segmenter(segmenter.model, segmenter.settings)
    monkeypatch.setattr(fresh, "device", torch.device("cuda"))
    assert fresh.window_mb_at_most == measure_windows(fresh, 1) == 0


def test_a_window_is_no_larger_than_the_generous_guess(segmenter: Segmenter):
    network = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, 3, 1))
    # (6 + 6 + 3) channels, and the input of the first, 27 values a voxel
    assert count_values(network, torch.zeros(1, 1, 8, 6, 4)) == (15 + 27) * 192
    assert not network[0]._forward_hooks
    assert segmenter.window_mb_at_most >= measure_windows(segmenter, 1)


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
