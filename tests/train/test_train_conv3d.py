import torch

from medseg.train.conv3d import BOUNDS, NAMES, compare_precisions


def test_every_precision_is_timed_and_agrees_with_float32_within_its_bound():
    measured = compare_precisions(torch.device("cpu"))
    assert list(measured) == list(NAMES) and measured[torch.float32].error == 0
    assert all(0 < measured[dtype].error <= bound for dtype, bound in BOUNDS.items())
    assert all(one.step_s > 0 for one in measured.values())


def test_a_convolution_that_goes_wrong_is_seen(monkeypatch):
    right = torch.nn.functional.conv3d

    def wrong(image, weight, padding):
        output = right(image, weight, padding=padding)
        return output * 1.1 if image.dtype is torch.bfloat16 else output

    monkeypatch.setattr("medseg.train.conv3d.functional.conv3d", wrong)
    measured = compare_precisions(torch.device("cpu"))
    assert measured[torch.bfloat16].error > BOUNDS[torch.bfloat16]
    assert measured[torch.float16].error <= BOUNDS[torch.float16]
