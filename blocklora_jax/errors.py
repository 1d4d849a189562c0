"""The error for problems that the user can fix."""


class UserError(Exception):
    """Bad input. The message names what is wrong and what to do.

    It is not a ValueError, because tyro would catch that while it builds a configuration, and print it in its own form.
    Commands print it as a single line on stderr and exit with status 2.

    >>> from blocklora_jax import StableDiffusion
    >>> try:
    ...     StableDiffusion.from_pretrained("no/such.safetensors")
    ... except UserError as error:
    ...     print(error)
    there is no file no/such.safetensors
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython calls it): the message, without the lines of code that raised it."""
        return [f"{type(self).__name__}: {self}"]
