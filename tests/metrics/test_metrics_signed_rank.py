import numpy as np
import pytest
from scipy.stats import wilcoxon

from medseg.metrics.signed_rank import signed_rank


def test_it_is_scipys_test_of_the_differences():
    differences = np.random.default_rng(0).normal(0.3, 1, 20)

    assert signed_rank(differences.tolist(), range(20)) == wilcoxon(differences).pvalue


def test_two_scans_of_a_patient_are_one_witness():
    differences = [0.1, 0.3, -0.4, 0.5, 0.9, 0.7]

    assert signed_rank([*differences, 0.5], [*"abcdef", "a"]) == wilcoxon([0.3, *differences[1:]]).pvalue


def test_equal_results_have_no_p():
    assert signed_rank([0.0, 1e-12], "ab") is None


@pytest.mark.parametrize("differences", [[0.1], [0.1, 0.1, 0.0]])
def test_few_or_tied_differences_are_answered_without_a_warning(differences):
    assert 0 < signed_rank(differences, range(len(differences))) <= 1
