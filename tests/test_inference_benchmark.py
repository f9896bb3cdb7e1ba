"""benchmarks/inference.py: which sides a ratio is of."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import inference


def test_the_fast_mode_is_no_side_of_equal_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """nnU-Net takes 12 s, medseg 4 s, its fast mode 1 s; of its own model 2 s and 0.5 s."""
    seconds = {"nnunet": 12.0, "medseg": 4.0, "medseg --mode exact": 6.0, "medseg --mode=fast": 1.0}
    seconds |= {"own model": 2.0, "own model --mode fast": 0.5}
    rows = [{"side": side, "wall_s": s, "cpu_s": s, "agreement": 1 - 1 / s} for side, s in seconds.items()]
    kept = inference.keep_equal(rows)
    assert [row["side"] for row in kept] == ["nnunet", "medseg", "medseg --mode exact", "own model"]

    class Sides:
        """Names instead of commands."""

        work = tmp_path

        def __getattr__(self, kind: str) -> object:
            return lambda *rest, **more: kind

    (tmp_path / "hippocampus/imagesTr").mkdir(parents=True)
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    for name, value in {"make_model": tmp_path, "run_in_turns": rows, "add_agreement": None}.items():
        monkeypatch.setattr(inference, name, lambda *_, value=value: value)
    monkeypatch.setattr(sys, "argv", ["inference.py", "cohort", "--no-monai", "--model", "RUN"])
    _, found = inference.run_cohort(Sides(), inference.parse())
    assert (found["cohort_wall"], found["cohort_mirrored_cpu"], found["cohort_own_cpu"]) == (3, 3, 6)
    assert found["agreement"] == 0.75
