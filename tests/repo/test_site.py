"""The site has a page for all that the repository's pages link to, and every public module in its reference."""

import re
import sys
from pathlib import Path
from runpy import run_path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site_pages() -> ModuleType:
    pytest.importorskip("mkdocs")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import site_pages
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return site_pages


class Pages(set[str]):
    """The pages of a site, as MkDocs hands them to a hook."""

    def get_file_from_path(self, path: str) -> str | None:
        return path if path in self else None


def page(src_uri: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=src_uri))


def test_links_of_the_repository_become_links_of_the_site(site_pages: ModuleType) -> None:
    pages = Pages({"index.md", "kubernetes.md", "insight.md", "reference/vlmgym/grpo/loss.md", "games/README.md"})
    text = "[a](../platform/vlmgym/grpo/loss.py) [b](../k8s/README.md#what) [c](https://ray.io) [d](#here)\n"
    fence = "```python\nteachers[0](state)\n```\n"
    assert site_pages.on_page_markdown(text + fence, page("insight.md"), {}, pages) == (
        "[a](reference/vlmgym/grpo/loss.md) [b](kubernetes.md#what) [c](https://ray.io) [d](#here)\n" + fence
    )
    assert site_pages.on_page_markdown("[a](docs/insight.md)", page("index.md"), {}, pages) == "[a](insight.md)"
    assert site_pages.on_page_markdown("[a](../../README.md)", page("games/swap.md"), {}, pages) == "[a](../index.md)"


def test_a_link_without_a_page_ends_the_build(site_pages: ModuleType) -> None:
    with pytest.raises(Exception, match=r"docs/insight.md: ../jobs/shisen.yaml is no page of the site"):
        site_pages.on_page_markdown("[a](../jobs/shisen.yaml)", page("insight.md"), {}, Pages())


def test_tables_and_doctests_of_docstrings_become_markdown(site_pages: ModuleType) -> None:
    pytest.importorskip("griffe")
    docstrings = run_path(str(ROOT / "docs/docstrings.py"))
    text = "Go.\n\n| Ends | never\n\n>>> f()[0]\n[1, 2]\n\nMore."
    assert docstrings["with_fences"](docstrings["with_head"](text)) == (
        "Go.\n\n| | |\n| --- | --- |\n| Ends | never |\n\n```pycon\n>>> f()[0]\n[1, 2]\n```\n\nMore."
    )


def test_every_page_is_in_the_navigation() -> None:
    """As `mkdocs build --strict` finds it, in seconds less."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\ntheme:")[0]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    named = set(re.findall(r"[\w/-]+\.md", navigation))
    assert pages <= named, "add it to mkdocs.yml"
    assert named - pages == {"index.md", "contributing.md", "kubernetes.md"}


def test_every_public_module_is_in_the_reference(site_pages: ModuleType) -> None:
    modules = site_pages.public_modules()
    assert {"vlmgym_envs.core", "vlmgym_policies.engines.hf", "vlmgym.grpo", "vlmgym.settings.grpo"} <= modules.keys()
    assert not [name for name in modules if "._" in name or "commands" in name.split(".")]
    assert site_pages.module_page(modules["vlmgym.grpo"]) == "reference/vlmgym/grpo/index.md"
    assert len(modules) > 150
