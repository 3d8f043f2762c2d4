"""Utilities for all packages. Each module stands alone and is imported by its full name, so that, for example, reading
a file does not import a large library."""
