# SPDX-License-Identifier: MulanPSL-2.0
"""What the scripts of "make check" print: TAP, whose cases scripts/test-driver counts."""


class Tap:
    """The report of one program."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def result(self, title, problems):
        """A case, which passes if there are no problems: texts of one or more lines, or one text.

        None and False are no problem either.
        """
        problems = [problems] if problems and isinstance(problems, str) else list(problems or ())
        self.count += 1
        self.failed += bool(problems)
        print(f"{'not ok' if problems else 'ok'} {self.count} - {title}", flush=True)
        for problem in problems:
            for line in problem.splitlines():
                print(f"#   {line}", flush=True)

    def skip(self, title, reason):
        self.count += 1
        print(f"ok {self.count} - {title} # SKIP {reason}", flush=True)

    def end(self):
        """Print the plan, which comes last. Returns: the exit status."""
        print(f"1..{self.count}", flush=True)
        return 1 if self.failed else 0
