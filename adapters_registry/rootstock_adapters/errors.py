"""What can be wrong with an adapter or a base folder, in words.

This room refuses to know who asked: the registry, the server and the trainer translate these.
"""


class ArtifactError(ValueError):
    """The bytes, the config or the shapes of an adapter part are not what its kind promises."""


class BaseError(ValueError):
    """A folder is not a base model that can be served."""
