"""A page of one case for niivue, which renders volumes with WebGL2; the vendored bundle is inlined whole.

niivue (BSD 2-clause, see vendor/LICENSE.niivue) makes textures and fonts of its own, so this page has a wider
policy than the review page, but no connection either: all it may load lies in the page.
"""

from __future__ import annotations

import base64
import gzip
import html
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.files import write_text
from medseg.core.geometry import Geometry
from medseg.tracking.review.encode import unpack, unpack_grey
from medseg.tracking.review.page import escape_json, read_asset

BUNDLE = "niivue-0.69.0.umd.js"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
)
MAPS = {"reference": "blue", "predicted": "warm"}


def write_niivue(path: Path, title: str, block: dict[str, Any], geometry: Geometry) -> None:
    """Write the page of a case.

    Args:
        path: The HTML file.
        title: The case id.
        block: Of `cut_scene`.
        geometry: Of the scan, on canonical axes, as the scene has it.
    """
    grid = geometry.crop(block["start"], block["stop"]).resample(block["shape"])
    volumes = [
        {"name": f"{channel['name']}.nii.gz", "kind": "image", "base64": _to_nifti(values, grid)}
        for channel, values in zip(block["channels"], _read_channels(block), strict=True)
    ][:1]
    volumes += [
        {
            "name": f"{name}.nii.gz",
            "kind": name,
            "base64": _to_nifti(unpack(block[name], block["shape"]), grid),
        }
        for name in MAPS
        if block[name] is not None
    ]
    data = escape_json({"title": title, "volumes": volumes, "note": block["note"]})
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n'
        f"<style>{read_asset('niivue.css')}</style>\n</head>\n<body>\n"
        f"{read_asset('niivue.html')}\n"
        f'<script type="application/json" id="data">{data}</script>\n'
        f"<script>{read_bundle()}</script>\n<script>{read_asset('niivue.js')}</script>\n</body>\n</html>\n"
    )
    write_text(path, page)


def read_bundle() -> str:
    """Return the vendored script; `</script` inside a string of it would end the block."""
    text = (files("medseg.tracking.review") / "vendor" / BUNDLE).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script")


def _read_channels(block: dict[str, Any]) -> Sequence[NDArray[np.float32]]:
    return [
        np.asarray(channel["levels"], np.float32)[unpack_grey(channel["data"], block["shape"])]
        for channel in block["channels"]
    ]


def _to_nifti(array_IJK: NDArray[Any], grid: Geometry) -> str:
    import nibabel

    image = nibabel.Nifti1Image(array_IJK, grid.affine)
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()
