"""Steps in a row, selected as a user selects them."""

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.core.select import select
from medseg.postprocess import POSTPROCESS, apply

GRID = Geometry.of_spacing((9, 7, 7), (1.0, 2.0, 5.0))


def test_steps_run_in_order():
    first, second = (lambda labels, geometry: labels + 1), (lambda labels, geometry: labels * 2)
    assert apply([first, second], np.zeros((1, 1, 1), dtype=np.uint8), GRID).item() == 2


def test_selected_steps_clean_a_map():
    labels_IJK = np.zeros(GRID.shape, dtype=np.uint8)
    labels_IJK[1:4, 1:4, 1:4] = 1
    labels_IJK[2, 2, 2] = 0
    labels_IJK[7, 3, 3] = 1
    chosen = [("fill_holes", {"max_volume_mm3": 10}), ("remove_small_components", {"min_volume_mm3": 20})]
    steps = [select("step", POSTPROCESS, name, options) for name, options in chosen]
    result = apply(steps, labels_IJK, GRID)
    assert (result.sum(), result[1:4, 1:4, 1:4].sum()) == (27, 27)


def test_unknown_option_is_refused_before_any_data():
    with pytest.raises(ConfigError, match="min_volume"):
        select("step", POSTPROCESS, "remove_small_components", {"min_volume": 3})
