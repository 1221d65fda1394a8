"""Longer runs than a lesson has room for: `python -m aigc_course.recipes.NAME`. Results go to `data/`."""
