"""What `ringblk image` refuses, as one line for the person who asked."""


class ImageError(Exception):
    """The image command cannot do what was asked; the message says why, for the user to act upon."""
