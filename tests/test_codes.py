"""docs/codes.md lists every code that medseg can give, and no other.

Codes are found in the source: values of `code=` and `default_code`, arguments that a function takes as
`code`, (code, message) pairs of warnings, and the first word of logged warnings. Where a reader puts its
format's name in front (`NII_TRUNCATED`, `PNG_TRUNCATED`), the family `XXX_TRUNCATED` is listed once.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
WORD = re.compile(r"[A-Z][A-Z0-9_]+")
PREFIXES = ("NII", "PNG", "TIFF", "NRRD", "MHA")


def strings_in(node: ast.expr) -> Iterator[str]:
    """Yield the texts an expression can be; a computed prefix is XXX, a wholly computed text nothing."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from [*strings_in(node.body), *strings_in(node.orelse)]
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from strings_in(value)
    elif isinstance(node, ast.JoinedStr):
        tail = node.values[-1]
        if isinstance(tail, ast.Constant) and isinstance(tail.value, str):
            yield f"XXX{tail.value}"


def code_positions(trees: list[ast.Module]) -> dict[str, tuple[int, bool]]:
    """Return function or class name -> (position of its `code`, whether it puts a prefix in front)."""
    positions = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg != "self"]
            if "code" in names:
                positions[node.name] = names.index("code"), "_{code}" in ast.unparse(node)
        elif isinstance(node, ast.ClassDef):
            fields = [
                n.target.id
                for n in node.body
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            ]
            if "code" in fields:
                positions[node.name] = fields.index("code"), False
    return positions


def codes_in(trees: list[ast.Module]) -> set[str]:
    found: set[str] = set()
    everywhere = code_positions(trees)
    for tree in trees:
        # A file's own `_error` comes before one of the same name elsewhere.
        found |= raw_codes_in(tree, everywhere | code_positions([tree]))
    families = {c.removeprefix("XXX_") for c in found if c.startswith("XXX_")}
    return {c for c in found if not is_in_family(c, families)}


def raw_codes_in(tree: ast.Module, positions: dict[str, tuple[int, bool]]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "code":
                    found |= set(strings_in(keyword.value))
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            index, is_prefixed = positions.get(name, (99, False))
            if len(node.args) > index:
                found |= {f"XXX_{c}" if is_prefixed else c for c in strings_in(node.args[index])}
            if name == "warning" and node.args:
                found |= {text.split(" ")[0] for text in strings_in(node.args[0])}
            if name == "read_bytes" and len(node.args) > 1:
                found.add("XXX_EMPTY")
        elif isinstance(node, ast.Assign) and any(
            getattr(t, "id", "") in {"code", "default_code"} for t in node.targets
        ):
            found |= set(strings_in(node.value))
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
            found |= (
                {c for c in strings_in(node.elts[0]) if CODE.fullmatch(c)} if is_text(node.elts[1]) else set()
            )
    return {code for code in found if WORD.fullmatch(code)}


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    )


def is_in_family(code: str, families: set[str]) -> bool:
    prefix, _, rest = code.partition("_")
    return prefix in PREFIXES and rest in families


def sources() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted((ROOT / "medseg").rglob("*.py"))]


def listed() -> list[str]:
    rows = re.findall(r"^\| ((?:`[A-Z0-9_]+`[ ,]*)+)\|", (ROOT / "docs" / "codes.md").read_text(), re.M)
    return [code for row in rows for code in re.findall(r"`([A-Z0-9_]+)`", row)]


def test_every_code_in_the_source_is_listed():
    assert sorted(codes_in(sources()) - set(listed())) == []


def test_every_listed_code_is_in_the_source():
    assert sorted(set(listed()) - codes_in(sources())) == []


def test_no_code_is_listed_twice():
    assert sorted({code for code in listed() if listed().count(code) > 1}) == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("raise DataError('m', code='A_ONE')", "A_ONE"),
        ("raise DataError('m', code='B_ONE' if x else 'B_TWO')", "B_TWO"),
        ("raise FormatError('m', code=f'{prefix}_SHEARED')", "XXX_SHEARED"),
        ("def fail(layout, code): return E(code=f'{p}_{code}')\nfail(a, 'CRC')", "XXX_CRC"),
        ("class Result:\n  id: str\n  code: str\nResult('a', 'GONE_AWAY')", "GONE_AWAY"),
        ("warnings.append(('LABEL_PALE', f'it is {pale}'))", "LABEL_PALE"),
        ("log.warning('LINE_LOST the work goes on (%s)', x)", "LINE_LOST"),
    ],
)
def test_a_planted_code_is_found(source, code):
    assert code in codes_in([ast.parse(source)])
