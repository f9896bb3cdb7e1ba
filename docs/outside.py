"""Lead the site's links to files outside docs/: these become part of it, under the same names.

A hook of mkdocs.yml. On GitHub `../LICENSE` is a file beside docs/; in the site it lies beside its pages.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "benchmarks/README.md", "docker/README.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files."""
    root = Path(config.config_file_path).parent
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Bring the links of docs/*.md to them."""
    return markdown.replace("](../", "](")
