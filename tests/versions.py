"""What the installed versions of other libraries can do together."""

from importlib.metadata import version

import pytest
from packaging.version import Version

needs_adapter_methods_of_transformers = pytest.mark.skipif(
    Version(version("transformers")) >= Version("5.24") and Version(version("peft")) < Version("0.22"),
    reason="the adapter methods of transformers 5.24 ask for PEFT 0.22, which is not released",
)
