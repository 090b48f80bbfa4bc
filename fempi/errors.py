"""The one exception whose message is meant for the user."""


class FempiError(ValueError):
    """Something the user can mend; its message says what to do.

    The command line prints it without a traceback and exits with status 2.
    """
