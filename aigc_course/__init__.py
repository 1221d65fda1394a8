"""Shared helpers of the course "AIGC: principles and code"; each module opens with what it is for."""

__version__ = "0.1.0"
