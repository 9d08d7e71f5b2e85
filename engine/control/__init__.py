"""The control API: HTTP with JSON bodies on a unix socket."""
