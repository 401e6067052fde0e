"""A pytest plugin: fixtures that test a port of GPT-2, one test per stage of the computation.

    def test_port(npgpt_probe, npgpt_stage):
        npgpt_stage(my_port(npgpt_probe))

It is loaded in every run of pytest: nothing of npgpt is imported before a fixture is used.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from npgpt.parity.probe import Probe

STAGES = ("forward", "loss", "backward", "step", "cache")  # those of npgpt.parity.order


@pytest.fixture(scope="session")
def npgpt_probe() -> "Probe":
    """The tiny probe of `npgpt probe`: a model with lively weights, a batch and settings."""
    from npgpt.testing import probe

    return probe()


@pytest.fixture(params=STAGES)
def npgpt_stage(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that tests one stage of a dump. A test with this fixture runs once per stage.

    `npgpt_stage(dump, probe=None)` fails with the report of `npgpt diagnose` if the first wrong
    tensor is of this stage. If it is of an earlier stage, or no tensor of this stage was dumped,
    the test is skipped, and the reason says so.
    """

    def check(dump: Any, probe: Any = None) -> None:
        __tracebackhide__ = True
        from npgpt.parity import report
        from npgpt.testing.parity import diagnose

        found = diagnose(dump, probe)
        stage, first = request.param, found.first_wrong
        if first is not None and first.stage == stage:
            pytest.fail(report.text(found), pytrace=False)
        if first is not None and STAGES.index(first.stage) < STAGES.index(stage):
            pytest.skip(f"{first.stage} is wrong: {report.describe(first.name)}")
        if all(one.stage != stage for one in found.findings):
            pytest.skip(f"no tensor of this stage was dumped: {stage}")

    return check
