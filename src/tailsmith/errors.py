"""What the user can mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something is wrong with what was given: says what was got, what is expected, and what to do.

    On the command line it is one line and exit code 2; any other exception is a fault of ours and keeps its traceback.
    """


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ ", did you mean plan or train?" for what is nearly one of the known names, else nothing."""
    close = difflib.get_close_matches(given, list(known), n=3)
    return f", did you mean {' or '.join(close)}?" if close else ""
