#!/usr/bin/env bash
# aeon and sktime read .ts files in lower case: classes that differ by case become one, without a word.
#
# The .ts format of the UEA and UCR archives names its classes in the header (`@classLabel true A a B`) and at the end of
# each line. Both readers turn every line into lower case before anything else, the labels too. A set with the classes
# A and a (letters of handwriting, gases CO and Co, genotypes) is loaded with one class fewer, no warning, and the header
# that lists three is not compared with the two that are left. Labels of all sets come back in lower case, so they do
# not match a table of the classes' own names either.
#
# Seen with aeon 1.6.0 and sktime 1.2.0 on Linux, Python 3.11 (2026-11). Fails if one of them keeps the case.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "aeon==1.6.0" "sktime==1.2.0"
cat > "$folder/Letters.ts" <<'SERIES'
@problemName Letters
@timeStamps false
@missing false
@univariate true
@equalLength true
@seriesLength 4
@classLabel true A a B
@data
0.1,0.2,0.3,0.4:A
0.9,0.8,0.7,0.6:a
0.5,0.5,0.6,0.5:B
SERIES
"$folder/venv/bin/python" -W ignore - "$folder/Letters.ts" <<'PYTHON'
import sys
from importlib.metadata import version

from aeon.datasets import load_from_ts_file
from sktime.datasets import load_from_tsfile

for name, load in (("aeon", load_from_ts_file), ("sktime", load_from_tsfile)):
    _, y = load(sys.argv[1])[:2]
    labels = [str(label) for label in y]
    print(f"{name} {version(name)}: labels of three series {labels}, classes {sorted(set(labels))}; the file has A, a and B")
    assert labels == ["a", "a", "b"], labels
PYTHON
echo "as described: three classes in the file, two in memory"
