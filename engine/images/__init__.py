"""Images past the page cache: formats, copies, files that are written and read directly."""
