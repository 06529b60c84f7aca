#!/usr/bin/env bash
# autorank: two methods that differ on every seed are "not different" once a third one is beside them; and which of its
# tests is one-sided is up to the data.
#
# autorank takes paired results (a row is a seed or a data set) and chooses the tests. For two methods it is a paired t-test.
# For three, normal and of like variance, it is a repeated-measures ANOVA, paired too, and then Tukey's HSD over
# the columns as if they were independent samples: its interval has the spread of the seeds, which pairing is there
# to take out. Ten seeds, methods that lie one point apart on each: p = 9e-7 for two of them; with a third, p = 2e-14 for the
# ANOVA, and the report says in its next sentence that none differs from another.
# Two methods whose results are not normal get Wilcoxon's test, one-sided in the direction in which the medians turned out
# (the t-test is two-sided): of equal methods about one in ten is "significantly larger" at alpha = 0.05, and five
# seeds can reach p = 1/32, where the two-sided test ends at 1/16. The report names neither side nor direction.
#
# Seen with autorank 1.3.0 (scipy 1.17.1, statsmodels 0.14.6, pandas 2.3.3) on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1" "pandas==2.3.3" "statsmodels==0.14.6" "autorank==1.3.0"
MPLBACKEND=agg "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import io
from importlib.metadata import version

import numpy as np
import pandas as pd
from autorank import autorank, create_report
from scipy.stats import ttest_rel, wilcoxon

print(f"autorank {version('autorank')}")


def ranked(table):
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its table even so
        return autorank(pd.DataFrame(table), alpha=0.05, verbose=False)


def report(result):
    with contextlib.redirect_stdout(io.StringIO()) as told:
        create_report(result)
    return told.getvalue()


draw = np.random.default_rng(0)
seeds = np.array([60, 65, 70, 75, 80, 62, 68, 73, 77, 71.0])
three = {name: seeds + points + draw.normal(0, 0.2, 10) for name, points in (("a", 2), ("b", 1), ("c", 0))}
pairs = {(m, n): ttest_rel(three[m], three[n]).pvalue for m, n in (("a", "b"), ("a", "c"), ("b", "c"))}
print("paired t-tests by scipy:", {"".join(k): f"{p:.0e}" for k, p in pairs.items()})
two, all_of_them = ranked({k: three[k] for k in "ab"}), ranked(three)
print(f"two methods: {two.omnibus}, p = {two.pvalue:.0e}")
print(f"three: {all_of_them.omnibus}, p = {all_of_them.pvalue:.0e}, then {all_of_them.posthoc}")
print("its report:", report(all_of_them).strip().splitlines()[-1])
assert two.omnibus == "ttest" and two.pvalue == pairs["a", "b"] and max(pairs.values()) < 1e-5
assert (all_of_them.omnibus, all_of_them.posthoc) == ("anova", "tukeyhsd") and all_of_them.pvalue < 1e-12
assert "no significant differences within the following groups: c, b, and a." in report(all_of_them)

told, judged = 0, 0
for _ in range(400):
    result = ranked(dict(zip("ab", draw.standard_t(1.5, size=(2, 30)), strict=True)))
    judged += result.omnibus == "wilcoxon"
    told += result.omnibus == "wilcoxon" and result.pvalue < 0.05
print(f"equal methods, 30 results, not normal: {told} of {judged} told apart at alpha = 0.05")
assert 0.075 < told / judged < 0.13, (told, judged)

five = {"a": [90, 91, 92, 93, 40.0], "b": [80, 82, 84, 86, 20.0]}
result = ranked(five)
print(f"five seeds: {result.omnibus}, p = {result.pvalue}; two-sided {wilcoxon(five['a'], five['b']).pvalue}")
assert (result.omnibus, result.pvalue) == ("wilcoxon", 1 / 32)
assert not any(word in report(result) for word in ("sided", "tailed"))
PYTHON
