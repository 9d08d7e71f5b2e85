"""Requests and their execution: chain to request, block backends, the pump, the worker process."""
