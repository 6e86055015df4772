"""Decides what the site has besides the pages in docs/: those at the root of the repository, and one per public module.

A hook of MkDocs (`hooks` in mkdocs.yml). Links are written so that they work in the repository; here they become links
between pages of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = ("envs", "policies", "platform")
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "k8s/README.md": "kubernetes.md"}
"""Pages that lie outside docs/: path in the repository -> page of the site."""
ALSO = {"docs/README.md": "index.md", "k8s/serve.yaml": "k8s/serve.yaml"}
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the modules to the navigation, and has the site built again where they change."""
    assert config.nav is not None
    (reference,) = (entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference += [{"Modules": _tree()}]
    config.watch += [str(ROOT / root) for root in SOURCE_ROOTS] + [str(ROOT / path) for path in FROM_ROOT]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "k8s/serve.yaml", abs_src_path=str(ROOT / "k8s/serve.yaml")))
    for name, path in public_modules().items():
        files.append(File.generated(config, module_page(path), content=f"# {name}\n\n::: {name}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = _source_of(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        target = _page_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1])))
        if target is None or files.get_file_from_path(target) is None:
            raise PluginError(f"{source}: {found[1]} is no page of the site")
        return f"]({posixpath.relpath(target, here)}{found[2] or ''})"

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def public_modules() -> dict[str, str]:
    """Module -> its file, as a path in the repository. Commands are left out: their options are a page of their own."""
    found: dict[str, str] = {}
    for root in SOURCE_ROOTS:
        for path in sorted((ROOT / root).rglob("*.py")):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            names = parts[:-1] if parts[-1] == "__init__" else parts
            if "commands" in parts or any(name.startswith("_") for name in names):
                continue
            found[".".join(names)] = path.relative_to(ROOT).as_posix()
    return found


def module_page(path: str) -> str:
    """The page of the module in a file of the repository."""
    inside = path.partition("/")[2].removesuffix(".py")
    return f"reference/{inside.replace('__init__', 'index')}.md"


def _tree() -> list[Any]:
    """The modules by package, as MkDocs wants its navigation."""
    tree: dict[str, Any] = {}
    for name, path in public_modules().items():
        place = tree
        *packages, last = name.split(".")
        if path.endswith("__init__.py"):
            packages, last = [*packages, last], ""
        for package in packages:
            place = place.setdefault(package, {})
        place[last] = module_page(path)
    return _entries(tree)


def _entries(tree: dict[str, Any]) -> list[Any]:
    return [
        {name: _entries(inside)} if isinstance(inside, dict) else ({name: inside} if name else inside)
        for name, inside in tree.items()
    ]


def _source_of(page: str) -> str:
    """The path in the repository of what a page is made of."""
    origins = {site: source for source, site in FROM_ROOT.items()}
    return origins.get(page, f"docs/{page}")


def _page_of(source: str) -> str | None:
    """The page of the site that shows a path of the repository."""
    if source in FROM_ROOT | ALSO:
        return (FROM_ROOT | ALSO)[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    if source.startswith(SOURCE_ROOTS):
        return module_page(source if source.endswith(".py") else f"{source}/__init__.py")
    return None
