"""The review page: one HTML file per run that opens anywhere, without a network or files beside it.

`flags` says which cases to look at first, `scene` fits the scans into a budget of bytes, `page` streams it
all into one file, `assets` hold what runs in the browser. `niivue` makes a page of one case for the vendored
viewer.
"""

from medseg.tracking.review.flags import FLAGS, Entry, flag_cases
from medseg.tracking.review.niivue import write_niivue
from medseg.tracking.review.page import PageWriter, escape_json, open_page
from medseg.tracking.review.scene import MAX_LABELS, Channel, Scene, cut_scene

__all__ = [
    "FLAGS",
    "MAX_LABELS",
    "Channel",
    "Entry",
    "PageWriter",
    "Scene",
    "cut_scene",
    "escape_json",
    "flag_cases",
    "open_page",
    "write_niivue",
]
