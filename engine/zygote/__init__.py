"""The zygote: the process that forks a drive's processes."""
