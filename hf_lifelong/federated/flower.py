"""The one module that imports Flower; the others take its names from here.

All of it is public but what `flwr.supercore` holds: the switch of its reports, and which run the messages of an
in-process grid belong to. That is why the extra pins a minor version.
"""

from __future__ import annotations

import os

# Flower and Ray read these when they are imported: nothing is reported, looked up or installed. What is set stays.
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
for _name, _value in OFFLINE.items():
    os.environ.setdefault(_name, _value)

try:
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Error,
        Message,
        MessageType,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg, Result
    from flwr.supercore import telemetry
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as error:
    raise ImportError(
        f'`hf_lifelong.federated` needs Flower 1.42 ({error}): run `pip install "hf_lifelong[federated]"`.'
    ) from error

# Where Flower was imported before this module, it has read its own default.
telemetry.FLWR_TELEMETRY_ENABLED = os.environ["FLWR_TELEMETRY_ENABLED"]

__all__ = [
    "OFFLINE",
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "FedAvg",
    "Grid",
    "Message",
    "MessageType",
    "MetricRecord",
    "RecordDict",
    "Result",
    "Run",
    "TaskIdentity",
]
