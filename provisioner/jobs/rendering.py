"""Renders what one task's VM is given, for a VM that something else starts; and stages the job for it where asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.grant import Grant
from provisioner.job.spec import JobSpec
from provisioner.jobs.factory import Factory, make_provider, remember_job
from provisioner.jobs.stores import choose, open_location
from provisioner.output import Event, Report
from provisioner.plan.plan import Plan, TaskPlan
from provisioner.userdata import validate
from provisioner.userdata.render import UserData


@dataclass(frozen=True)
class Rendering:
    """One task's user-data, with what it was made from. It holds the task's signed policies.

    `platform` is the provider's name, empty where none is named.
    """

    plan: Plan
    task: TaskPlan
    grant: Grant
    user_data: UserData
    platform: str

    @property
    def data(self) -> bytes:
        """What the VM is given, byte for byte: gzipped, unless it was rendered raw."""
        return self.user_data.data


@dataclass(frozen=True)
class Renderer:
    """How a job is rendered: for which platform, and what becomes of what its VM will fetch.

    To `stage` it, the task's inputs and the job's record go to the bucket, as a job of this task alone. `raw` is for
    platforms that refuse gzip. `as_launched`: the user-data is only looked at, and is what a launch gives its VMs.
    """

    report: Report
    local: bool = False
    provider: str | None = None
    stage: bool = False
    raw: bool = False
    as_launched: bool = False

    def render(self, spec: JobSpec, task: str | None = None) -> Rendering:
        """Render, validate, and stage the job or say what the VM would miss. The first task, unless one is named."""
        # With no provider named, the platform is one that we don't drive. Its limit isn't known: the tightest holds.
        platform = "local" if self.local else self.provider or spec.vm.provider or ""
        location, name = choose(spec, local=self.local, provider=platform or "local")
        opened = open_location(location)
        provider = make_provider(name if platform else "elsewhere", opened, spec.vm.options)
        launcher = Factory(opened, self.report).launcher(provider)
        plan = launcher.plan(spec, raw=self.raw, staged=self.stage or self.as_launched)
        chosen = plan.task(task)
        if self.stage:  # a job of this task alone, tried once: nobody here can start another VM
            array = (int(task or chosen.members[0]),) if spec.array else ()
            plan = launcher.plan(replace(spec, array=array, retries=0), raw=self.raw)
            chosen = plan.task(None)
        grant, made = launcher.render(plan, chosen, use=self.stage)
        validate.check(made.plain, self.report, quiet=not provider.has_guest)
        if self.stage:
            launcher.stage(plan)
            remember_job(opened, plan.job, self.report)
        else:
            self._report_missing(plan)
        if plan.agent == "inline-minimal":
            text = (
                "note: `agent push` and the like had no room in this user-data; with --stage they come from the bucket"
            )
            self.report(Event("left out", text, {"job": plan.job, "agent": plan.agent}))
        return Rendering(plan, chosen, grant, made, platform)

    def _report_missing(self, plan: Plan) -> None:
        """Say what a VM will miss whose job is not staged."""
        if plan.spec.renew:
            text = "note: nobody can renew what this VM may do, since nothing is recorded of it; --stage does that"
            self.report(Event("not recorded", text, {"job": plan.job}))
        fetched = [*plan.downloads, *([plan.archive] if plan.archive and not self.as_launched else [])]
        if fetched:
            grant = ["its grant"] if plan.remote_grant and not self.as_launched else []
            names = ", ".join([*(item.path for item in fetched), *grant])
            text = f"note: the VM will fetch {names} from the bucket, and that render uploads with --stage only"
            self.report(Event("not staged", text, {"keys": [item.key for item in fetched]}))
