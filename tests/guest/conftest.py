"""Guest tests are skipped where no guest can boot, unless a guest is required: then that is a failure."""

import os
from collections.abc import Generator

import pytest

from scripts.guest_machine import missing_parts


def guest_is_required() -> bool:
    return os.environ.get("RINGBLK_REQUIRE_GUEST") == "1" or os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def missing_guest_parts() -> list[str]:
    return missing_parts()


@pytest.fixture(scope="session", autouse=True)
def _guest_can_boot(missing_guest_parts: list[str]) -> None:
    if missing_guest_parts:
        pytest.skip(f"no guest without {', '.join(missing_guest_parts)}; scripts/setup-guest gets them")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_guest_test = item.get_closest_marker("guest") is not None
    if report.skipped and not hasattr(report, "wasxfail") and is_guest_test and guest_is_required():
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"a guest is required (RINGBLK_REQUIRE_GUEST=1 or CI=true): {reason}"
    return report
