"""Errors that are the user's to mend."""


class UserError(Exception):
    """Bad input: one message that names the thing and the way out.

    No ValueError: tyro would catch it where it builds a configuration, and print a box of its own.
    Command lines print it as a single line on stderr and exit with status 2.
    """
