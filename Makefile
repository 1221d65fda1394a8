# Each target is one line over manage.py, which works without make too: python manage.py lab
PYTHON ?= python3
LESSON ?=
MACHINE =

.PHONY: lab test run execute results html student slides assignment bundle setup
lab test run execute results html student slides assignment bundle setup:
	$(PYTHON) manage.py $@ $(LESSON) $(MACHINE)
