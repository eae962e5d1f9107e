"""The errors that cuchar raises on purpose.

Every message is one line that says what was expected and what was found. The
command line prints it and exits with the class's `exit_status`: 2 for options
that can never be right, 1 for everything else.
"""


class CucharError(Exception):
    """Base of every error that a user, a file or a machine can cause."""

    exit_status = 1


class OptionError(CucharError):
    """An option, or a pair of options, that is wrong with any text and on any machine."""

    exit_status = 2


class TextError(CucharError):
    """A text that cannot be read, encoded or trained on."""


class CheckpointError(CucharError):
    """A checkpoint that cannot be read or trusted."""


class OutputError(CucharError):
    """A file that cannot be written, or that must not be replaced."""


class RunError(CucharError):
    """A run folder that is taken, in use, or does not fit the options given."""


class DeviceError(CucharError):
    """A device or an engine that this machine or this version does not have, or that fails."""


class ShapeError(CucharError):
    """An array or a kernel's argument whose shape or type does not fit the others."""


class DivergedError(CucharError):
    """A loss or gradient that is no longer a finite number."""


class ResultError(CucharError):
    """A benchmark's results that cannot be read or compared."""
