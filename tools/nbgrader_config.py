"""nbgrader's settings for this course folder, as `make assignment` wrote them; change them to your needs.

A submission is somebody else's program. It runs here with your rights, so grade under an account of its own, or in a
container, where there is nothing to read or to break.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.converters.autograde import Autograde
from nbgrader.preprocessors import Execute

SECONDS = 60  # that one cell may run; a check stops by itself after 10
GIGABYTES = 4  # of memory that one submission may use (Linux only; other systems know no such limit)

os.environ["AIGC_PROGRESS"] = os.devnull  # what students pass is not your own progress
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # nbgrader calls alembic

c = get_config()  # noqa: F821 (nbgrader provides it)
c.CourseDirectory.course_id = "aigc-course"
c.Execute.timeout = SECONDS
if sys.platform == "linux":
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({GIGABYTES * 2**30},) * 2)"
    c.Execute.extra_arguments = [f"--InteractiveShellApp.exec_lines={limit}"]


class MarkWhatIsThere(Execute):
    """Runs a submission to its end: where a cell kills or blocks the kernel, that cell and all after it have failed.

    nbgrader alone would give such a submission no marks at all, not even for what came before.
    """

    def preprocess(self, notebook, resources, km=None):
        self.lost = None
        return super().preprocess(notebook, resources, km)

    def preprocess_cell(self, cell, resources, index):
        if self.lost is None or cell.cell_type != "code":
            try:
                return super().preprocess_cell(cell, resources, index)
            except (DeadKernelError, CellTimeoutError) as error:
                self.lost = f"The kernel was lost in cell {index + 1} ({type(error).__name__})."
        error = {"ename": "KernelLost", "evalue": self.lost, "traceback": [self.lost]}
        cell.outputs = [nbformat.v4.new_output("error", **error)]
        return cell, resources


steps = Autograde().autograde_preprocessors
c.ClearSolutions.code_stub = {"python": "..."}
c.Autograde.autograde_preprocessors = [MarkWhatIsThere if step is Execute else step for step in steps]
