"""The vhost-user protocol: messages, sockets, sessions."""
