"""Whether the service has been told to stop: the server says so, readiness and connections go by it."""

from dataclasses import dataclass


@dataclass
class Lifecycle:
    """Of one process."""

    is_draining: bool = False  # it still serves, and asks its clients to go elsewhere
