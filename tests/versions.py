"""What the installed versions of other libraries can do together."""

from importlib.metadata import version

import pytest
from packaging.version import Version

IS_OLD = Version(version("transformers")) < Version("5.24")
ADAPTER_METHODS_WORK = IS_OLD or Version(version("peft")) >= Version("0.22")
REASON = "the adapter methods of transformers 5.24 ask for PEFT 0.22, which is not released"
needs_adapter_methods_of_transformers = pytest.mark.skipif(not ADAPTER_METHODS_WORK, reason=REASON)
