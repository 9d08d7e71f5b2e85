"""What `ringblk image` refuses, as one line for the person who asked."""


class ImageError(Exception):
    """The image command cannot do what was asked; the message says why, for the user to act upon."""


class ContainerFound(ImageError):  # noqa: N818
    """What should be a raw image is one in another format, or an archive; the message says which."""


IS_FETCHED = "its base is fetched from elsewhere: have its drive flattened first (ringblk drive flatten)"
"""Why an overlay is not looked at while nobody serves it: nobody could be asked for what is missing."""
