"""What can be wrong with an adapter or a base folder, in words.

This room refuses to know who asked: the registry, the server and the trainer translate these.
"""


def printable(text: str) -> str:
    """`text` with everything that a terminal would obey, or not show, written out as an escape.

    Errors name what stands in files that anybody made.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ArtifactError(ValueError):
    """The bytes, the config or the shapes of an adapter part are not what its kind promises."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class BaseError(ValueError):
    """A folder is not a base model that can be served."""
