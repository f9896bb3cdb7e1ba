"""Damage to DICOM files, drawn from a seed: to bytes, to lengths, to values of elements, to pixel streams."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random

from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.uid import AllTransferSyntaxes

from medseg.io.dicom.elements import PARSE_ERRORS, quiet
from tests.dicom_pixels import DEFLATED
from tests.dicom_seeds import rename_syntax

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = (0, 1, 2, 7, 8, 255, 256, 512, 16384, 32767, 32768, 40000, 65534, 65535)
BIG_NUMBERS = (*NUMBERS, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
TEXTS = (
    *(
        "",
        " ",
        "0",
        "-0",
        "1",
        "-1",
        "2",
        "1000000",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1e308",
        "1e-320",
        "0x10",
    ),
    *(
        "1\\2",
        "1\\2\\3",
        "1\\0\\0\\0\\1\\0",
        "1\\0\\0\\1\\0\\0",
        "nan\\0\\0",
        "0\\0",
        "\\",
        "\\\\\\",
        "1_0",
        "٣",
    ),
    *(
        "2147483647",
        "2147483648",
        "999999999",
        "9" * 400,
        "\0",
        "ISO 2022 IR 87",
        "MOSAIC",
        "LOCALIZER",
        "OW",
    ),
    *("PALETTE COLOR", "RGB", "MONOCHROME1", "FRACTIONAL", "LABELMAP", "CLOSED_PLANAR", "POINT", "20200102"),
)
MOST_ITEMS = 60  # of a sequence that is repeated
MOST_BYTES = 1 << 17  # of a file whose elements are harmed, since harm repeats
ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
NESTED = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + ITEM
"""A sequence in an item of a sequence; never closed."""

TALKATIVE = 0x0028  # group of the pixels' layout: damage there reaches furthest


def mutate(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Return a damaged copy of a DICOM file and the names of what was done to it."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choices(list(MUTATIONS), [weight for weight, _ in MUTATIONS.values()])[0]
        at = find_dataset(data)
        if name not in WHOLE and is_deflated(data) and rng.random() < 0.7:
            try:
                inner = zlib.decompress(data[at:], -15)
            except zlib.error:  # damaged before
                continue
            deflate = zlib.compressobj(wbits=-15)
            changed = MUTATIONS[name][1](inner, rng)
            data = data[:at] + deflate.compress(changed) + deflate.flush()
        else:
            data = MUTATIONS[name][1](data, rng)
        done.append(name)
    return data, ", ".join(done)


def is_deflated(data: bytes) -> bool:
    return DEFLATED.encode() in data[:500]


def find_dataset(data: bytes) -> int:
    """Return where the data set starts, by the length of group 2."""
    return min(144 + struct.unpack_from("<L", data, 140)[0], len(data)) if len(data) > 144 else len(data)


# Bytes


def flip(data: bytes, rng: Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if damaged:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwrite(data: bytes, rng: Random) -> bytes:
    start, end = _range(data, rng)
    filler = rng.choice((b"\0", b"\xff", b"\xfe\xff\x00\xe0", b"A"))
    return data[:start] + (filler * (end - start))[: end - start] + data[end:]


def cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def insert(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 100))) + data[at:]


def repeat(data: bytes, rng: Random) -> bytes:
    start, end = _range(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def delete(data: bytes, rng: Random) -> bytes:
    start, end = _range(data, rng)
    return data[:start] + data[end:]


def _range(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 200)))


# Elements


def change_length(data: bytes, rng: Random) -> bytes:
    """Overwrite what looks like the length of an element of explicit or implicit VR."""
    spots = [
        (at + 6, 2) if vr in (b"DS", b"IS", b"CS", b"UI", b"US", b"LO") else (at + 8, 4)
        for at in range(find_dataset(data), len(data) - 12)
        if (vr := data[at + 4 : at + 6]).isalpha()
        and vr.isupper()
        and data[at + 1] in b"\x00\x20\x30\x52\x62\x7f"
    ]
    at, size = rng.choice(spots) if spots else (rng.randrange(max(1, len(data) - 4)), 4)
    numbers = NUMBERS if size == 2 else BIG_NUMBERS
    return data[:at] + rng.choice(numbers).to_bytes(4, "little")[:size] + data[at + size :]


def change_syntax(data: bytes, rng: Random) -> bytes:
    syntaxes = [*map(str, AllTransferSyntaxes), "", "1.2.3", "1.2.840.10008.1.3.10"]
    try:
        return rename_syntax(data, rng.choice(syntaxes))
    except (ValueError, struct.error):  # damaged before
        return flip(data, rng)


def change_value(data: bytes, rng: Random) -> bytes:
    """Give one to three elements of any depth a hostile value, another type, or take them away."""
    if len(data) > MOST_BYTES:
        return flip(data, rng)
    try:
        with quiet(), config.disable_value_validation():
            dataset = dcmread(io.BytesIO(data), force=True)
            for _ in range(rng.choice((1, 1, 2, 3))):
                places = list(_walk(dataset))
                loud = [place for place in places if place[1] >> 16 == TALKATIVE]
                if places:
                    _harm(*rng.choice(loud if loud and rng.random() < 0.3 else places), rng)
            stream = io.BytesIO()
            dataset.save_as(stream, enforce_file_format=True)
    except HARMLESS:
        return flip(data, rng)
    return stream.getvalue()


HARMLESS = (*PARSE_ERRORS, BytesLengthException, InvalidDicomError, OSError)
"""What pydicom raises when it cannot write the damage, or read what was damaged before."""


def _walk(dataset: Dataset, depth: int = 0) -> Iterator[tuple[Dataset, int, int]]:
    """Yield each element's data set, tag and depth."""
    for element in dataset:
        yield dataset, int(element.tag), depth
        if element.VR == "SQ" and depth < 8:
            for item in element.value:
                yield from _walk(item, depth + 1)


def _harm(parent: Dataset, tag: int, depth: int, rng: Random) -> None:
    element = parent[tag]
    action = rng.random()
    if action < 0.2:
        del parent[tag]
    elif element.VR == "SQ":
        items = list(element.value)
        many = items * rng.choice((0, 2, 3, MOST_ITEMS // len(items) if items and depth == 0 else 1))
        parent[tag].value = Items(many if action < 0.6 else items[:-1])
        if action > 0.9:
            nested = ITEM + NESTED * rng.choice((3, 40, 3000))
            parent[tag] = RawDataElement(Tag(tag), "SQ", len(nested), nested, 0, False, True)
    else:
        vr = rng.choice(("DS", "IS", "US", "UI", "LO", "UN", "OB", "FD")) if action > 0.9 else str(element.VR)
        value = _value(vr, rng)
        parent[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


def _value(vr: str, rng: Random) -> bytes:
    if vr in {"US", "SS"}:
        return b"".join(struct.pack("<H", rng.choice(NUMBERS)) for _ in range(rng.choice((0, 1, 1, 1, 2))))
    if vr in {"UL", "SL"}:
        return struct.pack("<L", rng.choice(BIG_NUMBERS))
    if vr in {"FD", "FL"}:
        number = rng.choice((0.0, -1.0, 1e300, 1e-300, float("nan"), float("inf"), 1.0))
        return struct.pack("<d", number) if vr == "FD" else struct.pack("<f", min(number, 1e30))
    if vr in {"OB", "OW", "UN", "OF", "OD"}:
        return rng.randbytes(rng.choice((0, 2, 84, 200)))
    text = rng.choice(TEXTS).encode()
    return text + b" " * (len(text) % 2)


# Pixels


def damage_pixels(data: bytes, rng: Random) -> bytes:
    """Damage bytes behind the pixel element only."""
    at = data.rfind(b"\xe0\x7f\x10\x00")
    if at < 0:
        return flip(data, rng)
    harm = rng.choice((flip, flip, overwrite, cut, insert, repeat, delete))
    return data[: at + 8] + harm(data[at + 8 :], rng)


MUTATIONS: dict[str, tuple[int, Mutation]] = {
    "flip": (1, flip),
    "overwrite": (1, overwrite),
    "cut": (1, cut),
    "insert": (1, insert),
    "repeat": (1, repeat),
    "delete": (1, delete),
    "length": (2, change_length),
    "syntax": (1, change_syntax),
    "value": (6, change_value),
    "pixels": (2, damage_pixels),
}
"""Name -> how often it is chosen in relation to others, and what it does."""

WHOLE = {"syntax", "value"}
"""Need a whole file; the others are also done to what is inside a deflated one."""
