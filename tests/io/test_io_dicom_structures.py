from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.io.dicom.labels.structures import check_reference, match, match_segments
from tests.dicom_labels import make_scan

STRUCTURES = [(1, "GTV Mass"), (2, "Lung left "), (5, "Lung right"), (7, "gtv node")]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ({"gtv mass": 1}, {1: 1}),
        ({"GTV*mass": 1}, {1: 1}),
        ({"lung left": 3, "lung right": 4}, {2: 3, 5: 4}),
        ({"lung left": 3, "lung r????": 3}, {2: 3, 5: 3}),
        ({"#5": 2}, {5: 2}),
        ({"gtv mass": 1, "?heart": 2}, {1: 1}),
        ({"gtv mass": 1, "?lung left": 2}, {1: 1, 2: 2}),
        ({"gtv mass": 1, "#1": 1}, {1: 1}),
    ],
)
def test_keys_are_names_patterns_or_numbers(wanted: Mapping[str, int], chosen: Mapping[int, int]) -> None:
    assert match(STRUCTURES, wanted, {}) == chosen


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"gtv*": 1}, "label 1: 2 of 4 structures fit (#1 #7)"),
        ({"heart": 2}, "label 2: 0 of 4 structures fit,"),
        ({"#4": 2}, "label 2: 0 of 4 structures fit,"),
        ({"?gtv*": 1}, "label 1: 2 of 4 structures fit (#1 #7)"),
        ({"?heart": 1, "?aorta": 2}, "all labels: 0 of 4 structures fit,"),
        ({"gtv mass": 1, "#1": 2}, "structure #1 is wanted as label 1 and as label 2"),
    ],
)
def test_none_or_several_structures_are_refused_with_numbers(wanted: Mapping[str, int], says: str) -> None:
    with pytest.raises(DataError) as caught:
        match(STRUCTURES, wanted, {})
    assert caught.value.code == "LABEL_ROI"
    assert caught.value.message.startswith(says)


def test_without_a_mapping_structures_are_called_as_the_labels() -> None:
    assert match(STRUCTURES, {}, {0: "background", 1: "lung LEFT", 4: "gtv node"}) == {2: 1, 7: 4}


def test_one_structure_cannot_be_two_labels_of_one_name() -> None:
    with pytest.raises(DataError, match="structure #1 is wanted as label 1 and as label 2"):
        match(STRUCTURES, {}, {1: "gtv mass", 2: "GTV mass"})


def test_without_a_mapping_a_name_is_no_pattern() -> None:
    with pytest.raises(DataError):
        match(STRUCTURES, {}, {1: "lung l*"})


def test_two_structures_of_one_number_are_refused() -> None:
    with pytest.raises(DataError):
        match([(1, "a"), (1, "b")], {"a": 1}, {})


@pytest.mark.parametrize(("wanted", "labels"), [({"gtv mass": 0}, {}), ({}, {}), ({}, {0: "background"})])
def test_labels_below_one_and_nothing_at_all_cannot_be_asked_for(
    wanted: Mapping[str, int], labels: Mapping[int, str]
) -> None:
    with pytest.raises(ConfigError):
        match(STRUCTURES, wanted, labels)


def test_segments_are_taken_by_name_where_every_name_is_there() -> None:
    assert match_segments([(1, "b"), (2, "A")], {}, {1: "a", 2: "b"}) == {2: 1, 1: 2}


def test_segments_are_taken_by_number_where_names_say_nothing() -> None:
    assert match_segments([(1, "x"), (2, "y"), (3, "z")], {}, {1: "a", 2: "b"}) == {1: 1, 2: 2}


def test_segments_are_not_taken_by_number_against_their_names() -> None:
    with pytest.raises(DataError, match="segment #1 has the name of label 2"):
        match_segments([(1, "b"), (2, "y")], {}, {1: "a", 2: "b"})


def test_a_missing_segment_is_refused() -> None:
    with pytest.raises(DataError):
        match_segments([(1, "x")], {}, {1: "a", 2: "b"})


SPACE, SERIES = "1.2.826.0.1.3680043.8.498.7.1.0.9", "1.2.826.0.1.3680043.8.498.7.1.1"


@pytest.mark.parametrize(
    ("spaces", "series"),
    [({SPACE}, {SERIES}), ({SPACE}, set()), (set(), {SERIES}), ({SPACE}, {SERIES, "1.2"})],
)
def test_a_label_object_of_the_same_space_or_series_fits(
    tmp_path: Path, spaces: set[str], series: set[str]
) -> None:
    check_reference(make_scan(tmp_path), spaces, series)


@pytest.mark.parametrize(
    ("spaces", "series"),
    [({"1.2"}, {SERIES}), ({SPACE}, {"1.2"}), (set(), set()), ({SPACE, "1.2"}, {SERIES})],
)
def test_a_label_object_of_another_space_or_series_is_refused(
    tmp_path: Path, spaces: set[str], series: set[str]
) -> None:
    with pytest.raises(DataError) as caught:
        check_reference(make_scan(tmp_path), spaces, series)
    assert caught.value.code == "LABEL_REFERENCE"


def test_a_scan_without_a_space_is_recognised_by_its_series(tmp_path: Path) -> None:
    scan = make_scan(tmp_path)
    nowhere = replace(scan, frames=tuple(replace(frame, frame_of_reference="") for frame in scan.frames))
    check_reference(nowhere, {"1.2"}, {SERIES})
