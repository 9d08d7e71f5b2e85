LINUX: bool
