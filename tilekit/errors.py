"""The two ways to fail that a caller can act on."""


class InputError(ValueError):
    """Bad input or usage: the message is one line that names the file, shows both numbers, and says the way out.

    The command line ends with status 2.
    """


class RunError(RuntimeError):
    """A run that began did not finish: one line that says what is missing. The command line ends with status 1."""
