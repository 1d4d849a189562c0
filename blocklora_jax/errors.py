"""Errors that are the user's to mend."""


class UserError(ValueError):
    """Bad input: one message that names the thing and the way out.

    Command lines print it as a single line on stderr and exit with status 2.
    """
