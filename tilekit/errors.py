"""The two ways to fail that a caller can act on."""

LONGEST = 2000
"""Characters of a message about bad input; the middle of a longer one is left out."""


def one_line(text: str) -> str:
    """A text as it may be shown: what a terminal would obey (line ends, escapes) is spelled out.

    Messages name files and quote what they hold, and both may come from anywhere.

    >>> one_line("a\\n\\x1b[31mb")
    'a\\\\n\\\\x1b[31mb'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """Bad input or usage: the message is one line that names the file, shows both numbers, and says the way out.

    The command line ends with status 2.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        super().__init__(one_line(text))


class RunError(RuntimeError):
    """A run that began did not finish: one line that says what is missing. The command line ends with status 1."""
