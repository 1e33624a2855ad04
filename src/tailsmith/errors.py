"""What the user can mend."""


class UserError(ValueError):
    """Something is wrong with what was given: says what was got, what is expected, and what to do.

    On the command line it is one line and exit code 2; any other exception is a fault of ours and keeps its traceback.
    """
