"""The device and its processes: command line, vhost-user, dispatcher, supervisor, front end."""
