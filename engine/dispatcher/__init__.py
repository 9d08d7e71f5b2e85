"""The dispatcher process: the one owner of every virtqueue."""
