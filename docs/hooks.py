"""Hooks of MkDocs: files outside of this folder that pages link to become part of the site."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "benchmarks/README.md",
    "benchmarks/results/fairness.png",
    "benchmarks/results/pruning.png",
    "notebooks/a_new_task_every_month.ipynb",
    "notebooks/answering_for_a_model.ipynb",
)


def on_files(files, config):
    for source in OUTSIDE:
        files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, **_):
    up = "../" * page.file.src_uri.count("/")
    for source in OUTSIDE:
        markdown = markdown.replace(f"]({up}../{source}", f"]({up}{source}")
    return markdown.replace("](../docs/", "](../") if page.file.src_uri.startswith("benchmarks/") else markdown
