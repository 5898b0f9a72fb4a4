"""What survives a restart of the agent, and what happens to files that cannot be read."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from registry.agent.definitions import CheckDefinition
from registry.agent.local.settings import LocalSettings
from registry.agent.local.state import LocalState
from registry.agent.persistence import Changes, Persistence, StoredService, file_name
from registry.errors import StorageError
from registry.testing.local_agent import make_local, running, service, state_of, ttl
from registry.testing.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def files(data_dir: Path) -> dict[str, int]:
    return {
        name: sum(each.is_file() for each in (data_dir / name).glob("*"))
        for name in ("services", "checks", "checks/state")
    }


async def restarted(clock: ManualClock, data_dir: Path, **options: object) -> LocalState:
    local = make_local(clock, data_dir=data_dir, **options)  # type: ignore[arg-type]
    await local.start()
    return local


async def test_registrations_survive_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    first = await restarted(clock, tmp_path)
    full = service(
        "web", ttl("a", status="passing", notes="n"), id="web/1", tags=("t",), meta={"k": "v"}
    )
    await first.add_service(full)
    await first.add_check(ttl("node é"))
    await first.maintenance.enable_service("web/1", "because")
    await first.maintenance.enable_node("upgrade")
    second = await restarted(clock, tmp_path)
    assert second.services["web/1"].definition == first.services["web/1"].definition
    assert sorted(second.checks) == sorted(first.checks)
    assert second.checks["_node_maintenance"].definition.notes == "upgrade"
    assert second.checks["_service_maintenance:web/1"].type_name == "maintenance"
    assert second.checks["a"].service_name == "web"
    # What it was before the restart may be untrue by now.
    assert state_of(second, "a") == ("critical", "")
    assert second.services["web/1"].source == "api"


async def test_removals_survive_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    first = await restarted(clock, tmp_path)
    await first.add_service(service("web", ttl("a"), ttl("b")))
    await first.add_service(service("web", ttl("b")), replace_checks=True)
    await first.add_check(ttl("c"))
    await first.remove_check("c")
    assert files(tmp_path) == {"services": 1, "checks": 1, "checks/state": 0}
    await first.remove_service("web")
    second = await restarted(clock, tmp_path)
    assert not second.services
    assert not second.checks
    assert files(tmp_path) == {"services": 0, "checks": 0, "checks/state": 0}


async def test_ttl_states_survive_until_they_expire(tmp_path: Path, clock: ManualClock) -> None:
    first = await restarted(clock, tmp_path)
    await first.add_service(service("web", ttl("long", 60), ttl("short", 5), ttl("silent")))
    async with running(first):
        first.update_ttl("long", "passing", "old")
        first.update_ttl("long", "warning", "new")
        first.update_ttl("short", "passing", "")
    await clock.advance(10)
    second = await restarted(clock, tmp_path)
    assert state_of(second, "long") == ("warning", "new")
    assert state_of(second, "short") == ("critical", "")
    assert state_of(second, "silent") == ("critical", "")
    async with running(second):
        await clock.advance(61)
        assert state_of(second, "long")[1].endswith("follows): new")
        await second.remove_service("web")
    assert files(tmp_path) == {"services": 0, "checks": 0, "checks/state": 0}


async def test_ttl_states_of_checks_from_files(tmp_path: Path, clock: ManualClock) -> None:
    definitions = [service("web", ttl("a"))]
    first = make_local(clock, data_dir=tmp_path)
    await first.start(definitions)
    async with running(first):
        first.update_ttl("a", "passing", "fine")
    assert files(tmp_path) == {"services": 0, "checks": 0, "checks/state": 1}
    second = make_local(clock, data_dir=tmp_path)
    await second.start(definitions)
    assert state_of(second, "a") == ("passing", "fine")
    third = make_local(clock, data_dir=tmp_path)
    await third.start()
    async with running(third):
        pass
    assert files(tmp_path)["checks/state"] == 0  # of a check that is no longer there


async def test_files_win_over_registrations(tmp_path: Path, clock: ManualClock) -> None:
    first = await restarted(clock, tmp_path)
    await first.add_service(service("web", ttl("a", notes="api"), port=1))
    await first.add_service(service("other"))
    second = make_local(clock, data_dir=tmp_path)
    await second.start([service("web", port=2)], [ttl("a", notes="file")])
    found = second.services["web"]
    assert (found.definition.port, found.source) == (2, "file")
    assert second.checks["a"].definition.notes == "file"
    assert files(tmp_path) == {"services": 1, "checks": 0, "checks/state": 0}


async def test_a_check_from_a_file_for_a_registered_service(
    tmp_path: Path, clock: ManualClock
) -> None:
    first = await restarted(clock, tmp_path)
    await first.add_service(service("web"))
    second = make_local(clock, data_dir=tmp_path)
    await second.start([], [ttl("a", service_id="web")])
    assert second.checks["a"].service_name == "web"


async def test_a_registration_for_a_service_from_a_file_goes_with_it(
    tmp_path: Path, clock: ManualClock
) -> None:
    local = make_local(clock, data_dir=tmp_path)
    await local.start([service("web")])
    await local.add_check(ttl("a", service_id="web"))
    await local.apply_definitions([], [])
    assert files(tmp_path)["checks"] == 0


@pytest.mark.parametrize("content", [b"", b"{", b'{"service": 7}', b"\xff\xfe", b"[]"])
async def test_corrupt_files_are_named_skipped_and_kept(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    first = await restarted(clock, tmp_path)
    await first.add_service(service("good"))
    await first.add_service(service("bad"))
    path = tmp_path / "services" / file_name("bad")
    path.write_bytes(content)
    with caplog.at_level(logging.ERROR, "registry.agent"):
        second = await restarted(clock, tmp_path)
    assert list(second.services) == ["good"]
    assert path.read_bytes() == content
    assert str(path) in caplog.text


async def test_a_check_that_may_no_longer_run_is_kept_on_disk(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    first = await restarted(clock, tmp_path)
    await first.add_check(
        CheckDefinition(id="s", name="s", args=("true",), interval_ns=1_000_000_000)
    )
    second = await restarted(clock, tmp_path, settings=LocalSettings())
    assert not second.checks
    assert "Scripts are disabled" in caplog.text
    third = await restarted(clock, tmp_path)
    assert list(third.checks) == ["s"]


async def test_a_write_that_was_cut_off_is_swept_up(tmp_path: Path, clock: ManualClock) -> None:
    leftover = tmp_path / "services" / "abc.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"{half")
    local = await restarted(clock, tmp_path)
    assert not local.services
    assert not leftover.exists()


async def test_a_directory_that_cannot_be_written(tmp_path: Path, clock: ManualClock) -> None:
    local = await restarted(clock, tmp_path)
    (tmp_path / "services").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*services"):
        await local.add_service(service("web"))
    assert not local.services


async def test_many_states_become_few_writes(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    plain = Persistence._write_states
    monkeypatch.setattr(
        Persistence,
        "_write_states",
        lambda self, states: (written.append(len(states)), plain(self, states))[1],
    )
    local = await restarted(clock, tmp_path)
    await local.add_check(ttl("a"))
    async with running(local):
        for number in range(500):
            local.update_ttl("a", "passing", str(number))
    assert sum(written) < 5
    second = await restarted(clock, tmp_path)
    assert state_of(second, "a") == ("passing", "499")


async def test_a_cancelled_registration_is_done_whole(tmp_path: Path, clock: ManualClock) -> None:
    """The client goes away while the disk works: memory and disk still say the same."""
    local = await restarted(clock, tmp_path)
    for cancelled_after in range(4):
        name = f"web-{cancelled_after}"
        async with asyncio.TaskGroup() as group:
            task = group.create_task(local.add_service(service(name)))
            for _ in range(cancelled_after):
                await asyncio.sleep(0)
            task.cancel()
        assert (name in local.services) == (tmp_path / "services" / file_name(name)).exists()
    assert local.services  # at least one was under way


async def test_files_are_replaced_whole(tmp_path: Path) -> None:
    persistence = Persistence(tmp_path)
    for port in (1, 2):
        stored = StoredService(service=service("web", id="web", port=port))
        await persistence.apply(Changes(save_services=(stored,)))
    assert [each.service.port for each in (await persistence.load()).services] == [2]
    assert files(tmp_path)["services"] == 1
    await persistence.aclose()
