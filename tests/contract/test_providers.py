"""The suite of the providers of this host. `machine` and `qemu` boot real machines: they run under the e2e marker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from provisioner.errors import BadInput, MissingDependency
from provisioner.providers.base import Instance, Phase
from tests.support import guests

ROOT = Path(__file__).parents[2]


@pytest.fixture(
    params=[
        "local",
        pytest.param("machine", marks=[pytest.mark.e2e, pytest.mark.timeout(900)]),
        pytest.param("qemu", marks=[pytest.mark.e2e, pytest.mark.timeout(1500)]),
    ]
)
def kind(request):
    """Each provider in turn."""
    kind = guests.KINDS[request.param]
    if kind.name != "local":
        try:
            kind.make(Path("unused"), "")._check(guests.built("bookworm"))
        except MissingDependency as missing:
            pytest.skip(f"{missing.message} {missing.hint}")
    return kind


@pytest.fixture
def provider(kind, tmp_path):
    """A provider with a folder of its own; whatever a test left running is ended."""
    provider = kind.make(tmp_path, "")
    yield provider
    names = [path.name for path in tmp_path.iterdir()]
    provider.terminate([Instance(name, "0", 1) for name in names])
    assert guests.left_behind(tmp_path, names) == []


def test_does_the_work_once(kind, provider):
    """The user-data runs, what it prints is kept, and an order given twice starts nothing twice."""
    order = guests.order(kind.user_data(f"echo {guests.HELLO}"), "a1b2c3")
    instances = provider.launch(order)
    assert [(item.task, item.attempt) for item in instances] == [("0", 1)]
    assert provider.launch(order) == instances
    guests.wait_for(provider, instances[0], Phase.GONE, kind.patience)
    assert provider.launch(order) == instances
    assert provider.state(instances)[instances[0].id].phase is Phase.GONE
    assert provider.console(instances[0]).count(guests.HELLO.encode()) == 1


def test_runs_until_it_is_terminated(kind, provider, tmp_path):
    """A machine is RUNNING until terminate ends it; terminate may be repeated, and leaves nothing."""
    namespaces = guests.network_namespaces()
    instances = provider.launch(guests.order(kind.user_data("exec sleep 600"), "d4e5f6"))
    assert provider.state(instances)[instances[0].id].phase is not Phase.GONE
    provider.terminate(instances)
    assert provider.state(instances)[instances[0].id].phase is Phase.GONE
    provider.terminate(instances)
    assert guests.left_behind(tmp_path, [item.id for item in instances]) == []
    assert guests.network_namespaces() <= namespaces


def test_never_heard_of_it(provider):
    """An id from elsewhere is GONE, has no console, and can be terminated."""
    stranger = Instance("0123456789abcdef", "0", 1)
    assert provider.state([stranger])[stranger.id].phase is Phase.GONE
    assert provider.console(stranger) == b""
    provider.terminate([stranger])


def test_no_instance_is_a_path(provider):
    """An id that would lead out of the provider's folder is refused."""
    with pytest.raises(BadInput):
        provider.terminate([Instance("../../etc", "0", 1)])


def test_two_orders_are_two_machines(kind, provider):
    """Machines of different tokens live and die apart."""
    first = provider.launch(guests.order(kind.user_data("exec sleep 600"), "aaaa1111"))
    second = provider.launch(guests.order(kind.user_data("exec sleep 600"), "bbbb2222"))
    assert first[0].id != second[0].id
    provider.terminate(first)
    states = provider.state([*first, *second])
    assert states[first[0].id].phase is Phase.GONE
    assert states[second[0].id].phase is not Phase.GONE


def test_one_machine_a_task(kind, provider):
    """An order of several tasks starts one machine each, in order; a provider that can't says so."""
    order = guests.order(kind.user_data("exec sleep 600"), "cccc3333", tasks=("3", "1"))
    if kind.takes_many:
        instances = provider.launch(order)
        assert [item.task for item in instances] == ["3", "1"]
        assert len({item.id for item in instances}) == 2
    else:
        with pytest.raises(BadInput):
            provider.launch(order)


def test_outlives_its_launcher(kind, provider, tmp_path):
    """A launcher that is killed takes nothing with it, and another process can ask and terminate."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from tests.support import guests
        kind = guests.KINDS[sys.argv[1]]
        order = guests.order(kind.user_data("exec sleep 600"), "dddd4444")
        print(kind.make(Path(sys.argv[2]), "").launch(order)[0].id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), kind.name, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    instance = Instance(done.stdout.decode().strip(), "0", 1)
    assert provider.state([instance])[instance.id].phase is not Phase.GONE
    assert provider.launch(guests.order(kind.user_data("exec sleep 600"), "dddd4444")) == [instance]
    provider.terminate([instance])
    assert provider.state([instance])[instance.id].phase is Phase.GONE


def test_keeps_the_user_data_to_itself(kind, provider, tmp_path):
    """No other user can read the user-data, and no process shows any of it, while the machine runs."""
    secret = "sentinel-7d1f0c"
    instances = provider.launch(guests.order(kind.user_data(f": {secret}; exec sleep 600"), "eeee5555"))
    assert guests.command_lines(secret) == []
    assert secret not in repr(instances)
    for home in tmp_path.iterdir():
        assert home.stat().st_mode & 0o077 == 0
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 20 and secret.encode() in path.read_bytes():
            parents = [each for each in [path, *path.parents] if tmp_path in each.parents]
            assert any(each.stat().st_mode & 0o077 == 0 for each in parents), path


def test_options_are_described(kind, provider):
    """Each option says what it is for; an unknown one, or one of the wrong form, is refused before anything starts."""
    for name, schema in provider.option_schema.items():
        assert schema["description"], name
    if provider.option_schema:
        with pytest.raises(BadInput):
            provider.launch(guests.order(kind.user_data(""), "ffff6666", colour="red"))
        with pytest.raises(BadInput):
            provider.launch(guests.order(kind.user_data(""), "ffff6666", memory="much"))


def test_refuses_what_it_cannot_carry(kind, provider):
    """User-data over the provider's limit is refused before anything starts."""
    if kind.name == "local":
        pytest.skip("local has no use for its limit at launch: the plan holds it")
    with pytest.raises(BadInput):
        provider.launch(guests.order(b"#" * (provider.user_data_limit + 1), "abab7777"))
