"""What MkDocs is told beside ``mkdocs.yml``: pages that do not lie in ``docs/``.

``make docs`` builds a site from the pages as they are, which are written to be read in
the checkout. So the README becomes its first page, other pages beside it come along, a
page for each room of the package is made of its docstrings, and a file of the checkout
that a page links is copied. Every link is then turned to where its target lies.
"""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

# MkDocs is of the extra `docs`; tests read this module without it.
if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "energyflow_mlx"

# Pages of the checkout outside docs/, and where they lie on the site.
MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
    "kernels/README.md": "kernels.md",
    "tests/metal_host/README.md": "metal_host.md",
}
API = "api"
_LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)#\s]+)")


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages from outside ``docs/``, those of the rooms, and linked files."""
    from mkdocs.structure.files import File

    for source, place in MOVED.items():
        files.append(File.generated(config, place, abs_src_path=str(CHECKOUT / source)))
    for name, text in api_pages().items():
        files.append(File.generated(config, f"{API}/{name}.md", content=text))
    for target in sorted(linked_files(files)):
        files.append(File.generated(config, site_path(target), content=shown(target)))
    return files


def on_page_markdown(
    markdown: str, page: "Page", config: "MkDocsConfig", files: "Files"
) -> str:
    """Turn links between files of the checkout into links of the site."""
    here = page.file.src_uri
    if here.startswith(f"{API}/"):
        return markdown
    folder = posixpath.dirname(checkout_path(here))

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        return posixpath.relpath(site_path(target), posixpath.dirname(here) or ".")

    return _LINK.sub(turned, markdown)


def checkout_path(place: str) -> str:
    """Where a page of the site lies in the checkout."""
    back = {place: source for source, place in MOVED.items()}
    return back.get(place, f"docs/{place}")


def site_path(target: str) -> str:
    """Where a file of the checkout lies on the site."""
    if target in MOVED:
        return MOVED[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    # As text, whatever it is: a browser shows it, and MkDocs takes it for no page.
    is_picture = target.endswith((".png", ".svg"))
    return f"files/{target}" if is_picture else f"files/{target}.txt"


def shown(target: str) -> bytes:
    """What the site has of a file of the checkout; of a folder, its list of files."""
    path = CHECKOUT / target
    if path.is_dir():
        return "\n".join(sorted(file.name for file in path.iterdir())).encode()
    return path.read_bytes()


def linked_files(files: "Files") -> set[str]:
    """Files of the checkout outside ``docs/`` that some page links.

    One that is not there is left to MkDocs, which refuses the link to it.
    """
    found = set()
    for file in files.documentation_pages():
        if file.src_uri.startswith(f"{API}/"):
            continue
        folder = posixpath.dirname(checkout_path(file.src_uri))
        for target in _LINK.findall(file.content_string):
            path = posixpath.normpath(posixpath.join(folder, target))
            if path not in MOVED and not path.startswith("docs/"):
                found.add(path)
    return {path for path in found if (CHECKOUT / path).exists()}


def rooms() -> list[str]:
    """Packages directly inside the package, by name."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def modules() -> list[str]:
    """Modules directly inside the package, without those that run it."""
    return sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("__"))


def api_pages() -> dict[str, str]:
    """Text of the pages of functions and classes, by name: one for each room."""
    pages = {room: f"# {room}\n\n{block(room)}" for room in rooms()}
    whole = "\n".join(block(module) for module in modules())
    top = "::: energyflow_mlx\n    options:\n      show_submodules: false\n"
    return {"index": f"# energyflow_mlx\n\n{top}\n{whole}", **pages}


def block(name: str) -> str:
    """What makes mkdocstrings put a module's docstrings there."""
    return f"::: {PACKAGE.name}.{name}\n"
