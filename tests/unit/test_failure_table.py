"""What must happen when things go wrong: each row of the failure table, and the test that makes it happen.

The table is the promise to an operator; this index keeps every row tied to a test that exists. The
tests themselves live with the part that fails.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

#: event -> (what must happen, the tests that show it)
FAILURES = {
    "no root, no libbpf, no clang, old kernel": (
        "slow path serves; one line says which path and why",
        (
            "net/test_plain_install.py::test_broker_and_clients_work_with_msgpack_alone",
            "net/test_demo.py::test_without_privileges_it_shows_the_slow_path_on_loopback_and_says_what_is_missing",
            "kernel/test_failures.py::test_without_a_bpf_file_system_it_works_and_says_what_is_missing",
        ),
    ),
    "broker killed": (
        "offloaded topics keep flowing; restart adopts, nothing lost; clients need no restart",
        (
            "kernel/test_survival.py::test_sigkill_under_traffic_loses_nothing_and_the_next_one_takes_over",
            "net/test_changes.py::test_a_killed_broker_is_followed_by_one_that_goes_on_where_it_was",
            "sim/test_restart.py::test_members_of_a_killed_broker_go_on_and_the_ledger_too",
        ),
    ),
    "user space gone for good": (
        "the policy takes over by the heartbeat stamp",
        ("kernel/test_survival.py::test_with_user_space_gone_the_policy_pass_hands_everything_up",),
    ),
    "member dies": (
        "out of the route when its lease ends; what it missed is in the ledger",
        (
            "sim/test_broker.py::test_a_member_without_heartbeats_leaves_the_route_when_its_lease_ends",
            "net/test_churn.py::test_what_a_killed_member_missed_is_in_the_ledger_to_the_event",
        ),
    ),
    "member drains": (
        "out at once, nothing lost",
        (
            "net/test_churn.py::test_nothing_is_lost_doubled_or_sent_to_the_departed",
            "net/test_changes.py::test_members_join_and_drain_under_traffic",
        ),
    ),
    "all members of a group gone": (
        "counted as no member; publishers that ask can know",
        (
            "sim/test_broker.py::test_a_member_without_heartbeats_leaves_the_route_when_its_lease_ends",
            "sim/test_broker.py::test_a_publisher_that_asks_learns_that_nobody_listens",
        ),
    ),
    "neighbour's MAC unknown": (
        "slow path until the kernel has resolved it",
        ("kernel/test_offload.py::test_facts_that_change_are_told_and_others_are_not",),
    ),
    "member's MAC or address changes": (
        "topics fall back or follow, and come back by themselves",
        (
            "kernel/test_failures.py::test_a_member_whose_mac_changes",
            "kernel/test_failures.py::test_a_member_whose_address_is_gone",
        ),
    ),
    "link down, interface gone": (
        "topics fall back, come back by themselves",
        (
            "kernel/test_failures.py::test_a_link_that_goes_down_and_up",
            "kernel/test_failures.py::test_an_interface_that_is_removed_and_made_again",
        ),
    ),
    "SQ worker killed, or hangs": (
        "the broker serves SQ at once, the next worker comes; lost is what it held, and counted",
        (
            "net/test_sq_worker.py::test_a_killed_worker_costs_what_it_held_and_no_more",
            "net/test_sq_worker.py::test_a_worker_that_hangs_is_replaced",
            "net/test_sq_worker_paths.py::test_moves_between_the_paths_and_kills_of_the_worker_leave_an_exact_account",
            "sim/test_worker_supervisor.py::test_a_change_waits_for_the_worker_or_for_its_end",
        ),
    ),
    "broker killed that has an SQ worker": (
        "the worker dies with it, so adoption is exact",
        ("net/test_sq_worker.py::test_a_killed_broker_takes_its_worker_along_and_the_next_one_goes_on",),
    ),
    "no real time, no second socket": (
        "SQ before BQ all the same; the status says what is in force and why",
        (
            "net/test_sq_worker.py::test_refused_real_time_is_told_and_strict_events_are_served",
            "unit/test_worker_slowpaths.py::test_where_there_is_no_worker_the_status_says_why_and_the_broker_serves",
            "net/test_quality_sockets.py::test_with_one_socket_it_says_so_and_strict_events_still_go_first",
        ),
    ),
    "a flood of best effort, a slow link for it": (
        "fills its own buffers and queue, and is counted there; SQ loses nothing and does not wait for it",
        (
            "net/test_quality_sockets.py::test_a_flood_into_a_stopped_broker_overflows_only_best_effort",
            "sim/test_slowpath_turns.py::test_a_strict_event_waits_for_one_step_of_best_effort_at_most",
            "sim/test_slowpath_narrow_ways.py::test_a_socket_full_of_best_effort_holds_no_strict_event_back",
        ),
    ),
    "two brokers on one interface": (
        "the second refuses clearly",
        ("kernel/test_survival.py::test_a_name_and_an_interface_have_one_owner",),
    ),
    "socket buffer overrun": (
        "counted, warned about with the sysctl to change",
        (
            "sim/test_slowpath_loopback.py::test_what_the_kernel_drops_in_front_of_the_socket_is_counted_and_told",
        ),
    ),
    "malformed, truncated, oversized, foreign packet": (
        "counted, never an exception out of the loop",
        (
            "net/test_fuzz_ports.py::test_the_data_port_accounts_for_every_mutated_datagram",
            "net/test_fuzz_ports.py::test_the_control_port_accounts_for_every_mutated_datagram",
            "sim/test_slowpath_loopback.py::test_a_foreign_source_is_refused_counted_and_named",
            "parity/test_paths_agree.py::test_a_packet_has_one_meaning",
        ),
    ),
    "bad configuration": (
        "refused at start with file, key path, value and what is allowed; a bad reload changes nothing",
        (
            "unit/test_config_faults.py::test_each_fault_is_told_once_with_path_value_and_what_is_allowed",
            "sim/test_reload_and_moves.py::test_what_cannot_change_while_running_changes_nothing_at_all",
        ),
    ),
    "clock steps": (
        "leases use the monotonic clock",
        ("sim/test_broker.py::test_a_step_of_the_wall_clock_ends_no_lease",),
    ),
}


@pytest.mark.parametrize("event", FAILURES)
def test_every_row_has_a_test_that_exists(event: str) -> None:
    _, named = FAILURES[event]
    assert named
    for name in named:
        file, _, function = name.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        functions = {
            node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        assert function in functions, f"{event}: no {name}"
