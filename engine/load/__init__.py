"""Loads on the front end: measured ones, and one whose every answer is checked."""
