"""Several workloads, or one with a thing left out at a time, as one set of results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from ..contracts.errors import BackendUnsupported, BadArgument
from ..session import Lab
from . import bench
from .catalogue import WORKLOADS, find
from .data import Data
from .results import Results, machine_of

ALL = "all"


def measure(
    names: Sequence[str],
    data: Data,
    setup: bench.Setup,
    n: int | None = None,
    *,
    ablated: bool = False,
    lab: Lab | None = None,
    notify: bench.Progress = bench.unseen,
    watch: bench.Watch = bench.unwatched,
) -> Results:
    """Run the named workloads on `lab`, or on one of their own that `setup` makes.

    Of `all`, those that the data or the model cannot run are left out, with the reason. With
    `ablated` there is one workload, and an outcome for each thing left out, in a lab for each set of
    settings that a lab has: the model is loaded again only for another lab.
    """
    is_all = list(names) == [ALL]
    workloads = list(WORKLOADS.values()) if is_all else [find(name) for name in names]
    if not workloads:
        raise BadArgument("no workload is named", hint=", ".join((*WORKLOADS, ALL)))
    if n is not None and n < 1:
        raise BadArgument(f"n must be 1 or more, not {n}")
    outcomes: dict[str, bench.Outcome] = {}
    left_out: dict[str, str] = {}
    if ablated:
        if len(workloads) != 1:
            raise BadArgument("one thing at a time is left out of one workload", hint="name one")
        arms = {name: change(setup) for name, change in bench.ABLATIONS.items()}
        for of_lab in dict.fromkeys(arm.of_lab for arm in arms.values()):
            with of_lab.lab(notify) as own:
                for name, arm in arms.items():
                    if arm.of_lab == of_lab:
                        outcomes[name] = bench.run(workloads[0], data, own, arm, n, notify, watch)
                machine = machine_of(own)
        return Results(machine, setup.plain(), {name: outcomes[name] for name in arms})
    with ExitStack() as open_labs:
        on = lab or open_labs.enter_context(setup.lab(notify))
        for workload in workloads:
            try:
                outcomes[workload.name] = bench.run(workload, data, on, setup, n, notify, watch)
            except (BackendUnsupported, BadArgument) as error:
                if not is_all:
                    raise
                left_out[workload.name] = str(error)
        return Results(machine_of(on), setup.plain(), outcomes, left_out)
