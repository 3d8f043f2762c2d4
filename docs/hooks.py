"""Hooks of MkDocs: files outside of this folder that pages link to become part of the site."""

import re
from pathlib import Path

from mkdocs.structure.files import File

DOCS = Path(__file__).parent
LINK = re.compile(r"\]\((?:\.\./)+((?:benchmarks|notebooks)/[^)#]+)")
BENCHMARKS = DOCS.parent / "benchmarks" / "README.md"


def on_files(files, config):
    linked = {target for page in DOCS.rglob("*.md") for target in LINK.findall(page.read_text("utf-8"))}
    linked |= {f"benchmarks/{target}" for target in re.findall(r"\]\((results/[^)#]+)", BENCHMARKS.read_text("utf-8"))}
    for target in sorted(linked):
        files.append(File.generated(config, target, abs_src_path=str(DOCS.parent / target)))
    return files


def on_page_markdown(markdown, page, **_):
    if page.file.src_uri.startswith("benchmarks/"):
        return markdown.replace("](../docs/", "](../")
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(lambda found: f"]({up}{found[1]}", markdown)
