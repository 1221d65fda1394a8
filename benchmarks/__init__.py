"""Measured figures: each module imports the lessons' models and steps and defines none."""

import aigc_course  # noqa: F401 (sets how threads wait, before torch is loaded)
