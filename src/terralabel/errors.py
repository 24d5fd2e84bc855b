"""Every error TerraLabel raises on purpose.

    TerraLabelError                 the root: catch this to catch them all
    ├── InputError                  an image, label file or folder cannot be used as given
    ├── SettingsError               a setting, flag or YAML key is unknown, of the wrong type, or contradicts another
    ├── RunError                    a run folder cannot be created, resumed or read
    │   └── SpaceError              the disk is full or the folder is read-only
    ├── WeightsError                a checkpoint is missing, damaged, foreign or unsafe
    ├── MissingExtraError           an optional package is needed and not installed
    └── ContractError               a backend broke its contract (wrong shape, dtype or frame)

The message of each is one line: what was got, what was expected, what to do.
"""

__all__ = [
    "ContractError",
    "InputError",
    "MissingExtraError",
    "RunError",
    "SettingsError",
    "SpaceError",
    "TerraLabelError",
    "WeightsError",
]


class TerraLabelError(Exception):
    """Root of all errors raised on purpose; `str(error)` is one line for the user."""


class InputError(TerraLabelError):
    """An image, label file or folder cannot be used as given.

    `status` is the machine-readable reason that goes into the run's ledger,
    for example ``"truncated"``, ``"not-a-raster"``, ``"unsupported"``.
    """

    def __init__(self, message: str, status: str = "unreadable") -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.status)


class SettingsError(TerraLabelError):
    """A setting, flag or YAML key is unknown, of the wrong type, or contradicts another."""


class RunError(TerraLabelError):
    """A run folder cannot be created, resumed or read."""


class SpaceError(RunError):
    """The disk is full or the folder is read-only; nothing was left under a final name."""


class WeightsError(TerraLabelError):
    """A checkpoint is missing, damaged, foreign or unsafe."""


class MissingExtraError(TerraLabelError):
    """An optional package is needed and not installed; the message names the extra."""


class ContractError(TerraLabelError):
    """A backend broke its contract: wrong shape, dtype or frame."""
