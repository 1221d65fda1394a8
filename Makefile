# Each target is one line over manage.py, which works without make too: python manage.py lab
PYTHON ?= python3
LESSON ?=

.PHONY: lab test run execute results html setup
lab test run execute results html setup:
	$(PYTHON) manage.py $@ $(LESSON)
