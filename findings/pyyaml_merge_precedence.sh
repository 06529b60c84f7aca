#!/usr/bin/env bash
# PyYAML 6.0.4 turns the precedence of merged mappings (`<<`) around, by the length of the key.
#
# The merge key's specification says that of several merged mappings the earlier one wins, and that a
# mapping's own key wins over what it merges. PyYAML up to 6.0.3 reads files so. 6.0.4 does not:
#
#   key of two letters or more    `<<: [*a, *b]` takes the value of b, no longer that of a
#   key of one letter             a variant that merges a base and overrides the key, and is merged
#                                 itself by a run, gives the run the base's value
#
# There is no error and no warning. The cause lies in how 6.0.4 tells that a merged key was there
# before: by the identity of the key's text. Text of one letter is one object in CPython, longer text
# a new object each time, so one is recognised where it must not be and the other never. SafeLoader
# and CSafeLoader do the same.
#
# Seen with PyYAML 6.0.3 and 6.0.4 on CPython 3.11 (2026-11). Fails if either reads otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 6.0.3 6.0.4; do
  "$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/$version" "PyYAML==$version"
  PYTHONPATH="$folder/$version" "$folder/venv/bin/python" - >"$folder/$version.txt" <<'PYTHON'
import yaml

text = """
first: &first {KEY: 1}
second: &second {KEY: 2}
both: {<<: [*first, *second]}
base: &base {KEY: 1}
variant: &variant {<<: *base, KEY: 2}
run: {<<: *variant}
"""
for key in ("x", "lr"):
    for loader in (yaml.SafeLoader, yaml.CSafeLoader):
        read = yaml.load(text.replace("KEY", key), Loader=loader)
        both, variant, run = (read[name][key] for name in ("both", "variant", "run"))
        print(f"{yaml.__version__} key {key}: [first, second] {both}, variant {variant}, run {run}")
PYTHON
  sort -u -o "$folder/$version.txt" "$folder/$version.txt"
  cat "$folder/$version.txt"
done
cmp "$folder/6.0.3.txt" - <<'END'
6.0.3 key lr: [first, second] 1, variant 2, run 2
6.0.3 key x: [first, second] 1, variant 2, run 2
END
cmp "$folder/6.0.4.txt" - <<'END'
6.0.4 key lr: [first, second] 2, variant 2, run 2
6.0.4 key x: [first, second] 1, variant 2, run 1
END
echo "as described: 6.0.4 reads the same file as other values than 6.0.3"
