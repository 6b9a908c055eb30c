"""Runs diffusers' own test mixins over our pipeline and its parts:

    python scripts/diffusers_suite.py CHECKOUT [PYTEST_ARGUMENT...]

CHECKOUT is a checkout of diffusers' repository at the installed version, or the nearest: it holds the mixins, which no
package does (`pip install parameterized requests-mock` for them). Without an accelerator, tests that ask for one run
with the CPU as far as that goes. Prints a line per test that didn't pass and a row per class; exit code 1 if a test
failed that isn't among REFUSED, or one that is there passed.
"""

import collections
import os
import sys
from pathlib import Path
from typing import Any

import pytest

# What can't apply, and why: "Class.test" or "test" of every class.
REFUSED = {
    "TestPipeline.test_from_pipe_consistent_config": "shares parts with Stable Diffusion, which has none of ours",
    "TestPipeline.test_multi_vae": "puts in other autoencoders: our networks are trained on the latents of theirs",
    "TestReferenceTextureMemory.test_training": "the memory has no parameters to train",
    "TestReferenceTextureMemory.test_training_with_ema": "the memory has no parameters to train",
    "TestReferenceTextureMemory.test_layerwise_casting_training": "the memory has no parameters to train",
}


class Results:
    """pytest plugin that keeps the outcome of every test."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []  # "Class.test", outcome, last line of the reason

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            name = ".".join(report.nodeid.split("::")[1:])
            self.rows.append((name, report.outcome, _reason(report)))


def _reason(report: Any) -> str:
    if isinstance(report.longrepr, tuple):  # skipped: (file, line, reason)
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message.strip().splitlines()[0] if crash else ""


def why_refused(name: str) -> str | None:
    """The reason in REFUSED for a test, with or without its class and its parameters."""
    plain = name.partition("[")[0]
    return REFUSED.get(plain) or REFUSED.get(plain.partition(".")[2])


def main() -> int:
    """Runs the suite; returns the exit code."""
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "tests" / "pipelines" / "test_pipelines_common.py").is_file():
        print("usage: python scripts/diffusers_suite.py CHECKOUT, a checkout of github.com/huggingface/diffusers")
        return 2
    sys.path.insert(0, sys.argv[1])
    results, cases = Results(), Path(__file__).with_name("diffusers_cases.py")
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(cases.parent)]
    pytest.main([*options, "--tb=no", "-W", "ignore", str(cases), *sys.argv[2:]], plugins=[results])
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failed = False
    for name, outcome, reason in results.rows:
        refusal = why_refused(name)
        if outcome == "failed":
            outcome = "skipped" if "backend implements streams" in reason else outcome  # an accelerator's
        kind = "refused" if outcome == "failed" and refusal else outcome
        failed |= kind == "failed" or (outcome == "passed" and refusal is not None)
        counts[name.partition(".")[0]][kind] += 1
        if outcome != "passed" or refusal:
            print(f"{kind}: {name}: {refusal or reason}")
    print("\n| suite | passed | refused | skipped | failed |\n|---|---|---|---|---|")
    for suite, count in counts.items():
        print(f"| {suite} |", " | ".join(str(count[kind]) for kind in ("passed", "refused", "skipped", "failed")), "|")
    return int(failed or not results.rows)


if __name__ == "__main__":
    sys.exit(main())
