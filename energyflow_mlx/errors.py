"""Errors a user can cause and mend; entry points print them as one line, exit 2."""


class InputError(ValueError):
    """Bad user input: says what is wrong, where, what was expected and what came.

    Raised for missing or damaged files, bad configuration values and absent
    teachers. Entry points turn it into one line on standard error and exit
    status 2; nothing has been written when it is raised.
    """


class EFBError(InputError):
    """A damaged or foreign EFB file; the message names the path and byte offset."""
