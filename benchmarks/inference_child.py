"""One command of the inference benchmark with a clock on its network; runs in the environment of its side.

    python inference_child.py SIDE CLOCK.json ARGUMENT...

SIDE is nnunet or medseg (their own command lines, with these arguments) or monai (MODEL IN OUT: MONAI's
sliding_window_inference and Invertd around the network that medseg loads). CLOCK.json gets wall and CPU
seconds inside the network, and of medseg what comes after the last window.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

CT_NUMBERS = (-900.0, 700.0, 60.0, 120.0)  # of the plan: percentiles, mean, standard deviation
LOOK_S = 0.002  # between two looks at the resident set


class Clock:
    """Adds up what happens inside the network, and watches what the process holds after its last call."""

    def __init__(self) -> None:
        self.network_s, self.network_cpu_s, self.calls = 0.0, 0.0, 0
        self.last = time.perf_counter()
        self.base_mb = self.highest_mb = 0.0
        self.after: dict[str, float] = {}

    def wrap(self, owner: Any, name: str) -> None:
        """Count the seconds of a method."""
        method = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            started, cpu = time.perf_counter(), time.process_time()
            result = method(*arguments, **options)
            self.last = time.perf_counter()
            self.network_cpu_s += time.process_time() - cpu
            self.network_s += self.last - started
            self.calls += 1
            self.base_mb = self.highest_mb = read_rss_mb()
            return result

        setattr(owner, name, timed)

    def note_end(self, owner: Any, name: str) -> None:
        """Note how long after the network's last call a method ends, and what was held meanwhile."""
        method = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            own_mb = self.highest_mb - self.base_mb
            self.after = {"export_s": time.perf_counter() - self.last, "export_own_mb": own_mb}
            return result

        setattr(owner, name, noted)

    def watch(self) -> None:
        """Look at the resident set for ever."""
        while True:
            self.highest_mb = max(self.highest_mb, read_rss_mb())
            time.sleep(LOOK_S)


def read_rss_mb() -> float:
    """Return this process's resident set."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_nnunet(clock: Clock) -> None:
    """Run nnUNetv2_predict_from_modelfolder."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, predict_entry_point_modelfolder

    clock.wrap(nnUNetPredictor, "_internal_maybe_mirror_and_predict")
    predict_entry_point_modelfolder()


def run_medseg(clock: Clock) -> None:
    """Run `medseg infer`; the export's memory is watched."""
    from medseg.cli import main
    from medseg.inference.export import Exporter
    from medseg.inference.predict import Ensemble

    clock.wrap(Ensemble, "__call__")
    clock.note_end(Exporter, "finish")
    threading.Thread(target=clock.watch, daemon=True).start()
    sys.argv.insert(1, "infer")
    main()


def run_monai(clock: Clock) -> None:
    """Run MONAI's recipe: transforms of dictionaries, sliding_window_inference, Invertd."""
    import torch
    from monai import transforms as t
    from monai.data import decollate_batch, list_data_collate
    from monai.inferers import sliding_window_inference

    from medseg.inference.model import load_model

    model_path, images, out = sys.argv[1:]
    torch.set_num_threads(os.cpu_count() or 1)
    model = load_model(Path(model_path), torch.device("cpu"))
    network, plan = model.networks[0], model.plan
    clock.wrap(network, "forward")
    normalise = t.NormalizeIntensityd("image")
    if next(iter(model.data.channels.values())).normalize == "ct":
        low, high, mean, std = CT_NUMBERS
        bounds = (low - mean) / std, (high - mean) / std
        normalise = t.ScaleIntensityRanged("image", low, high, *bounds, clip=True)
    before = t.Compose(
        [
            t.LoadImaged("image"),
            t.EnsureChannelFirstd("image"),
            t.Orientationd("image", axcodes="SAR", labels=None),  # nnU-Net's axes of a scan stored as RAS
            t.Spacingd("image", pixdim=plan.spacing_mm, mode="bilinear"),
            normalise,
            t.EnsureTyped("image"),
        ]
    )
    after = t.Compose(
        [
            t.Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True),
            t.AsDiscreted("pred", argmax=True),
            t.SaveImaged("pred", output_dir=out, output_postfix="", separate_folder=False, print_log=False),
        ]
    )
    with torch.inference_mode():
        for file in sorted(Path(images).iterdir()):
            batch = list_data_collate([before({"image": str(file)})])
            batch["pred"] = sliding_window_inference(
                batch["image"], plan.patch, 1, network, overlap=model.infer.overlap, mode="gaussian"
            )
            for item in decollate_batch(batch):
                after(item)


SIDES = {"nnunet": run_nnunet, "medseg": run_medseg, "monai": run_monai}


def main() -> None:
    """Run a side and write its clock, however it ends."""
    side, path = sys.argv[1], Path(sys.argv[2])
    clock = Clock()
    del sys.argv[1:3]
    try:
        SIDES[side](clock)
    finally:
        network = {"network_s": clock.network_s, "network_cpu_s": clock.network_cpu_s, "calls": clock.calls}
        path.write_text(json.dumps({**network, **clock.after}))


if __name__ == "__main__":
    main()
