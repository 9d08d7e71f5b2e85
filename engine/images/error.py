"""What `ringblk image` refuses, as one line for the person who asked."""


class ImageError(Exception):
    """The image command cannot do what was asked; the message says why, for the user to act upon."""


class ContainerFound(ImageError):  # noqa: N818
    """What should be a raw image is one in another format, or an archive; the message says which."""
