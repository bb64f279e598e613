"""Providers of other distributions, as their entry points offer them."""

from datetime import datetime, timezone
from pathlib import Path

import pytest

from provisioner.errors import BadInput
from provisioner.job.spec import JobSpec, RunSpec, VmSpec
from provisioner.jobs import stores
from provisioner.providers import base, registry
from provisioner.providers.base import Context, Instance, Order, Phase, Provider, State
from provisioner.providers.retrying import RetryingProvider
from provisioner.userdata import parse, render


class Plain:
    """A plugin that derives from nothing of ours: the four methods, and an attribute that isn't required."""

    name = "plain"
    user_data_limit = 1000
    option_schema = {"colour": {"type": "string"}}  # noqa: RUF012 - as a plugin writes it
    concurrency = 3

    def __init__(self, folder):
        self.folder = folder

    @classmethod
    def create(cls, context):
        """Make it."""
        return cls(context.state_dir / "plain")

    def launch(self, order):
        """Start nothing."""
        return [Instance(order.token, order.tasks[0], order.attempt)]

    def state(self, instances):
        """All have gone."""
        return {item.id: State(Phase.GONE) for item in instances}

    def console(self, _instance):
        """Nothing."""
        return b""

    def terminate(self, _instances):
        """Nothing to end."""


class Derived(Plain, Provider):
    """The same as a subclass of Provider."""


class Point:
    """An entry point."""

    def __init__(self, name, offered):
        self.name = name
        self.load = lambda: offered


@pytest.fixture(params=[Plain, Derived], ids=lambda each: each.__name__)
def offered(request, monkeypatch):
    """Offer a plugin under the name ``plain``."""
    monkeypatch.setattr(registry, "_offered", lambda: (Point("plain", request.param),))
    return request.param


def test_a_plugin_of_four_methods_has_the_rest_by_default(offered, tmp_path):
    """Whether it derives from Provider or not, a plugin keeps what it says and gets the defaults of what it doesn't."""
    made = registry.create("plain", Context(tmp_path, "http://127.0.0.1:1"))
    assert isinstance(made, Provider)
    assert isinstance(made, offered)
    assert made.folder == tmp_path / "plain"
    assert (made.name, made.concurrency, made.user_data_limit) == ("plain", 3, 1000)
    assert (made.groups, made.notice, made.raw_limit, dict(made.pinned_options)) == (False, "", 1000, {})
    assert (made.has_guest, registry.provider_class("plain").reaches_loopback) == (True, False)
    order = Order("j", ("0",), 1, "t", datetime.now(timezone.utc), b"")
    assert made.launch(order) == [Instance("t", "0", 1)]
    assert made.find_instances(order) is None
    assert made.guest_url("http://127.0.0.1:1/b/") == "http://127.0.0.1:1/b/"
    assert [choice.options for choice in made.choices({"colour": "red"})] == [{"colour": "red"}]
    assert [check.good for check in made.checks({}, 1)] == [None]
    assert list(made.list_instances("j")) == list(made.list_resources()) == []


def test_a_plugins_options_are_known_by_its_name(offered):
    """The keys that a plugin takes under `vm` stand beside those of the built-in providers."""
    schemas = registry.OptionSchemas()
    assert schemas["plain"] == offered.option_schema
    assert "local" in schemas
    with pytest.raises(KeyError):
        schemas["other"]


def test_what_a_plugin_lacks_is_named(monkeypatch):
    """A class without one of the four methods is no provider: making it says which is missing."""

    class Half(Plain):
        terminate = Provider.terminate

    monkeypatch.setattr(registry, "_offered", lambda: (Point("half", Half),))
    with pytest.raises(TypeError, match="terminate"):
        registry.create("half", Context(Path(), ""))


def test_a_plugin_without_create_is_named(monkeypatch):
    """`create` is the one class method that a job needs; without it the error says which class lacks it."""

    class Uncreated(Provider):
        name = "uncreated"

    monkeypatch.setattr(registry, "_offered", lambda: (Point("uncreated", Uncreated),))
    with pytest.raises(TypeError, match=r"Uncreated has no class method create\(context\)"):
        registry.create("uncreated", Context(Path(), ""))


@pytest.mark.parametrize("reaches", [False, True])
def test_a_plugin_says_whether_its_vms_reach_the_embedded_store(offered, monkeypatch, reaches):
    """A job that names no store uses the embedded one where they do; otherwise it is told to name one."""
    monkeypatch.setattr(offered, "reaches_loopback", reaches, raising=False)
    spec = JobSpec("x", RunSpec(("true",)), vm=VmSpec("plain"))
    if reaches:
        assert stores.choose(spec, local=False, provider=None) == (stores.embedded_location(), "plain")
        return
    with pytest.raises(BadInput, match="VMs of plain can't reach the embedded one"):
        stores.choose(spec, local=False, provider=None)


def test_a_plugin_says_whether_it_has_a_guest(offered, monkeypatch, tmp_path):
    """What it says is known of it through the wrapper that tries again, too."""
    monkeypatch.setattr(offered, "has_guest", False, raising=False)
    assert not RetryingProvider(registry.create("plain", Context(tmp_path, ""))).has_guest


def test_an_unknown_provider_is_told_those_there_are(offered):
    """The hint lists the built-in ones and the plugins."""
    with pytest.raises(BadInput, match="there is no provider 'other'") as caught:
        registry.provider_class("other")
    assert "local" in caught.value.hint
    assert "plain" in caught.value.hint


def test_what_a_plugin_may_rely_on():
    """The names that `providers.base` promises to plugins: one that goes or changes belongs into CHANGELOG."""
    assert set(base.__all__) == {
        *("Check", "Choice", "Context", "Instance", "Order", "Phase", "Provider", "ProviderResource", "State")
    }
    assert registry.Context is base.Context
    assert {name for name in vars(Provider) if not name.startswith("_")} == {
        *("name", "user_data_limit", "option_schema", "launch", "state", "console", "terminate"),
        *("notice", "raw_limit", "concurrency", "groups", "pinned_options", "guest_url", "choices", "checks"),
        *("create", "has_guest", "reaches_loopback"),
        *("find_instances", "list_instances", "list_resources", "remove_resources", "stop_waiting"),
    }
    assert Provider.__abstractmethods__ == {
        *("name", "user_data_limit", "option_schema", "launch", "state", "console", "terminate")
    }
    assert callable(parse.unpack)
    assert all(path.startswith("/") for path in (render.GRANT_PATH, render.LAUNCHER_PATH, render.TASK_PATH))
