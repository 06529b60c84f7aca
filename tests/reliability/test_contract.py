"""Every strategy of the house keeps the contract, on Ray and in another process too.

pytest -m slow tests/reliability/test_contract.py
"""

from __future__ import annotations

import pytest

from fcil.check import CHECKS, check
from fcil.methods.files import built_in_files

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("strategy", sorted(built_in_files()))
def test_a_strategy_keeps_the_contract(strategy: str) -> None:
    report = check(strategy, ray=True)
    assert report.passed, report
    assert len(report.results) == len(CHECKS)
