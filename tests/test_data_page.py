"""docs/data.md: its entries of config.yaml are valid, and its numbers of splits are what prepare.py makes."""

import re
from pathlib import Path

import pytest
import yaml

from utils.config.loading import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_there_is_an_entry_for_each_data_set_of_the_page():
    names = [name for entry in ENTRIES for name in yaml.safe_load(entry)]
    assert names == ["MATHWRITING", "M2E", "HME100K", "MINE"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.split(":")[0].strip())
def test_each_entry_loads_and_changes_what_it_says(entry, tmp_path):
    (name, values), *_ = yaml.safe_load(entry).items()
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"][name] = values
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    loaded = load_config(tmp_path / "config.yaml", name).as_dict()
    data = values.get("data", {})
    assert {key: loaded["data"][key] for key in data} == data
    stages = values.get("stages", {})
    epochs = {one["name"]: one["epochs"] for one in stages} if isinstance(stages, list) else {
        stage: one["epochs"] for stage, one in stages.items()}  # fmt: skip
    assert {stage["name"]: stage["epochs"] for stage in loaded["stages"] if stage["name"] in epochs} == epochs
