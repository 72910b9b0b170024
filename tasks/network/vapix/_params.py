"""What all camera tools are asked: which cameras, with whose account, how patiently, and with whose approval."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from tasks.core.models import BlockName, ProbeParams, Scope

IN_FLIGHT = 32
"""Cameras talked with at once; each has one request at a time."""
REPORTING_SECONDS = 5.0
"""What is left of a tool's deadline for its result."""
MOST_SECONDS = 1800.0


def fleet_timeout(seconds: float, cameras: int = 256) -> float:
    """Seconds a tool needs at most that spends `seconds` on each of so many cameras."""
    rounds = -(-cameras // IN_FLIGHT)
    return min(MOST_SECONDS, rounds * seconds + 2 * REPORTING_SECONDS)


class CameraTargets(ProbeParams):
    """Which cameras, and how patiently they are asked."""

    port: int | None = Field(
        None, ge=1, le=65535, description="TCP port of the cameras, 1 to 65535, where it is not the block's."
    )
    timeout: float = Field(15.0, ge=1, le=60, description="Seconds to wait for each answer, 1 to 60.")

    def scope(self) -> Scope:
        # Where the block names another port, `each_camera` asks the policy about it before anything is sent.
        want = min(1000, max(200, 20 * len(self.targets)))
        return Scope(
            targets=tuple(self.targets),
            ports=(self.port,) if self.port is not None else (),
            packets_per_second=want,
            least_packets_per_second=20,
        )


class CameraParams(CameraTargets):
    """Parameters of a tool that logs in.

    What an action may do beyond the tool's own level says `safety()`; that it needs approval, `approval()`. An action that does takes
    one camera, and `confirm` repeats it: `subject()` is the target as given, with the `thing()` that is acted on behind it where losing
    it would be the harm.
    """

    credentials: BlockName = Field(description="Block with the account, such as axis/yard (type Axis Credentials).")
    confirm: str | None = Field(
        None,
        max_length=500,
        description="Approval of what needs one: repeats the target exactly, followed by what is acted on; the refusal shows it.",
    )

    serial: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{12}$", to_upper=True)] | None = Field(
        None,
        description="Serial number of the one camera that is meant: another device at its address gets no credentials and no change.",
    )

    @model_validator(mode="after")
    def _whose_serial(self) -> Self:
        if self.serial is not None and len(self.targets) != 1:
            raise ValueError(f"serial is one camera's: it goes with exactly one target, not {len(self.targets)}")
        return self

    def thing(self) -> str | None:
        """What on the camera is acted on, where approval is given for that; None for the camera as such."""
        return None

    def subject(self) -> str:
        if len(self.targets) != 1:
            return ""
        thing = self.thing() if self.approval() else None
        return f"{self.targets[0]} {thing}" if thing else self.targets[0]
