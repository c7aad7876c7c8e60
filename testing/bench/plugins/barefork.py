"""The floor: each test in a bare fork that runs pytest's own protocol and pipes the reports back. Nothing else.

What it leaves out: no process group, no deadline, no dump, no data, no output of a crash, no fixture that is torn down
where it was set up. A test that dies ends the session here.
"""

from __future__ import annotations

import json
import os

import pytest
from _pytest.runner import runtestprotocol


def run(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Run the protocol of one item in a fork, and log its reports here."""
    config = item.config
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(item, nextitem, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    for data in json.loads(text):
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _be_child(item: pytest.Item, nextitem: pytest.Item | None, writing: int) -> None:
    config = item.config
    try:
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        data = [config.hook.pytest_report_to_serializable(config=config, report=report) for report in reports]
        with open(writing, "wb") as pipe:
            pipe.write(json.dumps(data).encode())
        os._exit(0)
    finally:
        os._exit(1)
