"""Devices as their drivers see them, and how their requests are carried out."""
