"""What cannot be deployed is said at synth time."""

from __future__ import annotations


class DeploymentError(ValueError):
    """The parameters cannot be deployed. `str()` says which one, why, and what to change."""
