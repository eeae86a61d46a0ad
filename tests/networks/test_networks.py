"""Every case in every mode: what is right there happens, or the kernel is told to lack what it is about."""

from __future__ import annotations

import pytest
from support.privileges import require_kernel, require_netns

from networks.cases import CASES, MODES, Case
from networks.ground import Lacking
from networks.judge import Right, judge, judge_waiting
from networks.play import play, waiting
from networks.row import Row

pytestmark = [pytest.mark.kernel, pytest.mark.netns]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_network(case: Case, mode: str) -> None:
    require_netns()
    require_kernel()
    row = Row(case.name, mode)
    try:
        if case.right is Right.WAITS:
            judge_waiting(row, waiting(case.build, mode, case.interfaces, case.says), case.says)
            return
        played = play(case.build, mode, case.paths[mode][0], case.groups, case.interfaces, case.blind)
        judge(row, played, case.right, case.paths[mode], blind=case.blind)
    except Lacking as lacking:
        row.verdict, row.fault = "absent", str(lacking)
        pytest.skip(f"this kernel lacks it: {lacking}")
    except BaseException as error:
        row.fault = row.fault or f"{type(error).__name__}: {error}".partition("\n")[0]
        raise
    finally:
        row.write()
