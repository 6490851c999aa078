"""The one exception for what a person got wrong."""


class InputError(ValueError):
    """Says in one line what was given, what was expected and the likely slip.

    The command line prints the message without a traceback and exits with 2.
    """
