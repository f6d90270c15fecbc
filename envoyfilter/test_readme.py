"""README.md, the check and the filter's source name the same keys, bounds, defaults and metrics."""

import re

from checked import HERE, read
from collector_manifest import COLLECTOR_CONFIG
from filter_manifests import PLUGIN_CONFIG

CONFIG_RS = (HERE.parent / "filter" / "src" / "config.rs").read_text()
METRICS_RS = (HERE.parent / "filter" / "src" / "metrics.rs").read_text()
HEADER_RS = (HERE.parent / "core" / "src" / "header.rs").read_text()
MAX_ENTRIES = re.search(r"MAX_ENTRIES: u32 = ([\d_]+);", HEADER_RS)[1]


def part(title):
    """What stands under a heading of the README."""
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", read("README.md"), re.MULTILINE | re.DOTALL)[1]


def rows(text):
    """The tables' rows by the name in their first cell: the other cells."""
    found = re.findall(r"^\| `([\w.\[\]]+)` \| (.*) \|$", text, flags=re.MULTILINE)
    assert len(dict(found)) == len(found), "a row stands twice"
    return {name: re.split(r" (?<!\\)\| ", cells) for name, cells in found}


def rust_number(text):
    """`64 << 10`, `3_600_000` or the bound of a batch."""
    text = text.strip().replace("meshchain_core::header::MAX_ENTRIES.into()", MAX_ENTRIES).replace("_", "")
    value, _, shift = text.partition(" << ")
    return int(value) << int(shift or 0)


def test_the_configuration_table_has_the_keys_that_the_filter_knows():
    keys = re.findall(r'"(\w+)"', re.search(r"const KEYS: \[&str; \d+\] = \[(.*?)\];", CONFIG_RS, re.DOTALL)[1])
    assert len(set(keys)) == len(keys) > 10
    assert sorted(rows(part("The filter's configuration"))) == sorted(keys) == sorted(PLUGIN_CONFIG["properties"])


def test_the_check_and_the_table_have_the_filters_bounds():
    bounds = re.findall(r'number\(&map, "(\w+)", ([^,]+), (.+?)\)\?', CONFIG_RS)
    assert len(bounds) >= 6
    table = rows(part("The filter's configuration"))
    for key, least, most in bounds:
        least, most = rust_number(least), rust_number(most)
        schema = PLUGIN_CONFIG["properties"][key]
        assert (schema["minimum"], schema["maximum"]) == (least, most), key
        assert f"{spoken(key, least)} to {spoken(key, most)}" in table[key][1], key


def spoken(key, number):
    """As the table writes a bound."""
    units = ((1 << 20, " MiB"), (1 << 10, " KiB")) if key.endswith("_bytes") else ()
    unit, name = next(((unit, name) for unit, name in units if number % unit == 0), (1, ""))
    return f"{number // unit}{name}"


def test_the_table_has_the_filters_default_numbers():
    table = rows(part("The filter's configuration"))
    defaults = re.search(r"impl Default for Config \{(.*?)^\}", CONFIG_RS, re.MULTILINE | re.DOTALL)[1]
    numbers = re.findall(r"(\w+): (\d[\d_]*(?: << \d+)?),", defaults)
    assert len(numbers) >= 6
    for key, number in numbers:
        assert int(table[key][0]) == rust_number(number), key


def test_the_metrics_table_has_those_that_the_filter_defines():
    counters = re.findall(r'\("(\w+)", (?:counts|other)\.\w+\)', METRICS_RS)
    gauges = re.findall(r'MetricKind::Gauge, "meshchain_(\w+)"', METRICS_RS)
    reasons = re.search(r"impl DropReason \{(.*?)^\}", HEADER_RS, re.MULTILINE | re.DOTALL)[1]
    dropped = [f"dropped_{name}" for name in re.findall(r'=> "(\w+)"', reasons)]
    assert len(counters) > 5 and len(gauges) == 1 and len(dropped) >= 4
    assert sorted(rows(part("The filter's metrics"))) == sorted([*counters, *gauges, *dropped])


def test_the_collectors_table_has_the_keys_that_are_checked():
    assert sorted(rows(part("The collector's configuration"))) == sorted(collector_keys())


def collector_keys():
    for name, schema in COLLECTOR_CONFIG["properties"].items():
        table = schema.get("items", schema)
        inner = [f"{name}.{key}" for key in table.get("properties", [])]
        yield from inner or [name]
