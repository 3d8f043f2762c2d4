.PHONY: style quality test docs

# Formats the code and repairs what can be repaired.
style:
	ruff check . --fix
	ruff format .

# What CI checks beside the tests.
quality:
	ruff check .
	ruff format --check .
	mypy

test:
	pytest

# The documentation as a site in build/site; open its index.html.
docs:
	mkdocs build --strict
