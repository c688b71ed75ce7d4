"""The configuration: what is shipped loads, and every error names its key."""

from pathlib import Path

import pytest
import yaml

from utils.config.loading import load_config, merge, overridden_keys, parse_config, set_value, with_present_keys
from utils.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[1] / "config.yaml"


@pytest.mark.parametrize("dataset", ["SAMPLE", "CROHME", "HME100K", "MINE"])
@pytest.mark.parametrize("preset", [None, "full", "small"])
def test_the_shipped_config_loads(dataset, preset):
    config = load_config(SHIPPED, dataset, preset)
    is_small = preset == "small" and dataset != "SAMPLE"
    wanted = ["standard", "ink", "ink", "ink", "ink"] if is_small else ["standard", "pairs", "ink"]
    assert [stage.images for stage in config.stages] == wanted
    assert config.dataset == dataset
    assert (config.data.image_scale == 0.6) == (dataset == "SAMPLE")  # its own entry counts


def test_the_config_survives_its_own_form_as_plain_values():
    config = load_config(SHIPPED, "CROHME")
    assert parse_config(yaml.safe_load(yaml.safe_dump(config.as_dict()))) == config


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("stages.0.epochs=0", "--set stages.0.epochs: expected a positive integer, got 0"),
        (
            "stages.handwritten.learning_rate=fast",
            "--set stages.handwritten.learning_rate: expected a positive number, got 'fast'",
        ),
        ("stages.0.renamed={first: 0.1}", "--set stages.0.renamed: renamed ink among ink; expected `images: ink`"),
        ("augment.strokes.exchange=1.5", "--set augment.strokes.exchange: expected a number between 0 and 1, got 1.5"),
        ("stages.0.losses.magic=1", "--set stages.0.losses.magic: unknown loss"),
        ("stages.0.losses.feature_map=1", "--set stages.0.losses.feature_map: needs `images: pairs`"),
        ("stages.0.trains=[handwritten_encoder]", "--set stages.0.trains: handwritten_encoder does not see"),
        ("stages.2.expressions.synthetic=10", "--set stages.2.expressions.synthetic: new expressions have no ink"),
        ("stages=[]", "stages: expected at least one stage"),
        ("stages.0.augment=maybe", "--set stages.0.augment: expected true or false, got 'maybe'"),
        ("stages=3", "stages: expected a list, got 3"),
        ("training.ema=1.5", "training.ema: expected a number between 0 and 1, got 1.5"),
        ("training.emma=0.9", "--set training.emma: unknown key; did you mean ema?"),
        ("stages.0.lr=0.9", "--set stages.0.lr: unknown key; did you mean learning_rate?"),
        ("stages.0.learing_rate=0.9", "did you mean learning_rate?"),
        ("ema=0.9", "--set ema: unknown key; did you mean training.ema?"),
        ("trainin.ema=0.9", "--set trainin.ema: unknown key; did you mean training?"),
        ("stages.0.share=0.5", "stages[1].share: missing; where one stage has a share of the time, all need one"),
        ("stages.0.share=0", "--set stages.0.share: expected a positive number, got 0"),
        ("stages.2.image_scale=0.5", "stages.2.image_scale: expected 1, as data.image_scale: the run is read so"),
        ("training.minutes=soon", "--set training.minutes: expected a positive number, got 'soon'"),
        ("training.clock=sun", "--set training.clock: expected one of wall, cpu, steps, got 'sun'"),
        ("model.decoder=nonsense", "model.decoder: expected one of gru, transformer, got 'nonsense'"),
        ("model.counting=maybe", "model.counting: expected a non-negative integer, got 'maybe'"),
        ("model.encoder.layers=[4, many]", "--set model.encoder.layers ([1]): expected a positive integer, got 'many'"),
        ("augment.scale=[1]", "augment.scale: expected a list of 2, got [1]"),
        ("augment.strokes.pen=[0, 3]", "--set augment.strokes.pen ([0]): expected a positive integer, got 0"),
        ("augment.strokes.wobble=1", "augment.strokes.wobble: unknown key"),
        ("batch.max_pixels=-5", "batch.max_pixels: expected a positive integer or auto, got -5"),
        ("data=7", "data: expected a table of keys, got 7"),
        ("augment=off", "augment: expected a table of keys, got False; a stage is trained without by stages.NAME.aug"),
        ("seed=null", "seed: expected an integer, got None"),
        ("stages.7.epochs=1", "stages.7.epochs: there is no entry 7; there are 3"),
        ("threads=0", "threads: expected a positive integer or auto, got 0"),
        ("nonsense", "--set nonsense: expected KEY=VALUE"),
    ],
)
def test_an_error_names_its_key_and_what_was_expected(assignment, expected):
    with pytest.raises(ConfigError) as error:
        load_config(SHIPPED, "CROHME", assignments=[assignment])
    assert expected in str(error.value)


def test_shares_of_ink_are_no_more_than_all_of_it():
    shares = [
        "stages.handwritten.renamed={first: 0.6, last: 0.7}",
        "stages.handwritten.synthetic={first: 0.4, last: 0.4}",
    ]
    with pytest.raises(ConfigError, match="handwritten.renamed: last, with `synthetic`: .* at most 1, got 1.1$"):
        load_config(SHIPPED, "CROHME", None, shares)


def test_attention_is_drawn_to_typeset_symbols_and_can_be_in_every_stage():
    config = load_config(SHIPPED, "CROHME", assignments=[f"stages.{i}.losses.attention=0.1" for i in range(3)])
    assert [stage.losses["attention"] for stage in config.stages] == [0.1] * 3
    by_default = [stage.losses.get("attention", 0) for stage in load_config(SHIPPED, "CROHME").stages]
    assert by_default == [1.0, 0, 0]  # ink has no known places but where it was made from strokes


def test_a_config_without_strokes_leaves_them_as_they_are():
    values = load_config(SHIPPED, "CROHME").as_dict()
    without = {name: value for name, value in values["augment"].items() if name != "strokes"}
    assert parse_config({**values, "augment": without}) == load_config(SHIPPED, "CROHME")


def test_errors_of_the_file_name_the_file_and_the_key(tmp_path):
    values = yaml.safe_load(SHIPPED.read_text())
    values["stages"][0]["epochs"] = 0
    del values["training"]["ema"]
    (path := tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as error:
        load_config(path, "CROHME", assignments=["seed=x"])
    assert "--set seed: expected an integer, got 'x'" in str(error.value)
    assert f"{path}: training.ema: missing; stages[0].epochs: expected a positive integer, got 0" in str(error.value)


def test_minutes_and_device_from_the_command_line_are_named_as_they_were_typed():
    assert load_config(SHIPPED, "CROHME", minutes="7.5").training.minutes == 7.5
    with pytest.raises(ConfigError, match="^--minutes: expected a positive number, got -1$"):
        load_config(SHIPPED, "CROHME", minutes="-1")


def test_a_key_that_stands_twice_is_an_error(tmp_path):
    (path := tmp_path / "config.yaml").write_text(SHIPPED.read_text() + "\nseed: 1\n")
    with pytest.raises(ConfigError, match=r"line \d+: the key seed stands in line \d+ already"):
        load_config(path, "CROHME")


def test_a_preset_tells_which_keys_of_the_file_it_replaces():
    replaced = overridden_keys(SHIPPED, "HME100K", "small")
    assert list(replaced) == ["preset small", "the entry of HME100K in datasets"]
    assert "training.ema" in replaced["preset small"] and "data.max_height" not in replaced["preset small"]
    assert "seed" not in replaced["preset small"]
    assert overridden_keys(SHIPPED, "CROHME", "full") == {}


def test_the_configuration_of_a_run_is_a_configuration(tmp_path):
    config = load_config(SHIPPED, "CROHME", "small")
    (path := tmp_path / "config.yaml").write_text(yaml.safe_dump(config.as_dict() | {"batching": "fixed"}))
    assert load_config(path, "CROHME") == load_config(path, None) == config


@pytest.mark.parametrize("path", sorted((SHIPPED.parent / "results").glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_of_earlier_runs_are_read(path):
    assert load_config(path, None).training.swa_epochs >= 0


def test_keys_of_earlier_versions_have_their_present_names_in_files_presets_and_assignments(tmp_path):
    stages = [{"name": "a", "pictures": "ink", "validation_pictures": 3}, {"name": "b", "pictures": "standard"}]
    values = {"data": {"picture_scale": 2}, "stages": stages}
    present = [{"name": "a", "images": "ink", "validation_images": 3}, {"name": "b", "images": "standard"}]
    assert with_present_keys(values) == {"data": {"image_scale": 2}, "stages": present}
    text = SHIPPED.read_text()
    former = text.replace("image_scale", "picture_scale").replace(" images: ", " pictures: ")
    (path := tmp_path / "config.yaml").write_text(former)
    assert load_config(path, "CROHME", "small") == load_config(SHIPPED, "CROHME", "small")
    assert load_config(SHIPPED, "CROHME", assignments=["data.picture_scale=0.25"]).data.image_scale == 0.25
    both = text.replace("  image_scale: 1.0", "  picture_scale: 1.0\n  image_scale: 1.0")
    path.write_text(both)
    with pytest.raises(ConfigError, match="data.picture_scale: unknown key; did you mean image_scale"):
        load_config(path, "CROHME")


def test_the_configuration_is_frozen():
    config = load_config(SHIPPED, "CROHME")
    with pytest.raises(AttributeError):
        config.training.ema = 0.5


def test_all_errors_are_told_at_once():
    with pytest.raises(ConfigError, match="seed.*ema.*epochs"):
        load_config(SHIPPED, "CROHME", assignments=["seed=x", "training.ema=2", "stages.1.epochs=-1"])


def test_numbers_in_scientific_notation_are_numbers():
    assert load_config(SHIPPED, "CROHME", assignments=["training.weight_decay=1e-4"]).training.weight_decay == 1e-4
    assert load_config(SHIPPED, "CROHME", assignments=["batch.max_pixels=2e6"]).batch.max_pixels == 2_000_000


def test_later_overrides_win(tmp_path):
    values = yaml.safe_load(SHIPPED.read_text())
    values["presets"]["tiny"] = {"seed": 1, "stages": {"alignment": {"epochs": 3}}}
    values["datasets"]["MINE"] = {"preset": "tiny", "stages": {"alignment": {"learning_rate": 0.5}}}
    (path := tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    config = load_config(path, "MINE", assignments=["stages.alignment.learning_rate=0.25"])
    assert (config.seed, config.stages[1].epochs, config.stages[1].learning_rate) == (1, 3, 0.25)
    assert config.stages[0] == load_config(path, "CROHME").stages[0]


def test_an_unknown_preset_is_named(tmp_path):
    with pytest.raises(ConfigError, match="--preset huge: unknown; .* has: full, paper, small"):
        load_config(SHIPPED, "CROHME", "huge")


def test_a_file_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml: cannot be read"):
        load_config(tmp_path / "nowhere.yaml", "CROHME")
    (broken := tmp_path / "broken.yaml").write_text("stages: [")
    with pytest.raises(ConfigError, match="broken.yaml: not YAML"):
        load_config(broken, "CROHME")


def test_stages_can_be_left_out():
    stages = yaml.safe_load(SHIPPED.read_text())["stages"]
    assignment = "stages=" + yaml.safe_dump(stages[2:], default_flow_style=True, width=10**6)
    config = load_config(SHIPPED, "CROHME", assignments=[assignment])
    assert [stage.name for stage in config.stages] == ["handwritten"]


def test_merging_replaces_values_and_keeps_siblings():
    base = {"a": {"b": 1, "c": [1, 2]}, "stages": [{"name": "x", "epochs": 1}]}
    merged = merge(base, {"a": {"c": [3]}, "stages": {"x": {"epochs": 2}}})
    assert merged == {"a": {"b": 1, "c": [3]}, "stages": [{"name": "x", "epochs": 2}]}
    set_value(merged, "a.b=hello")
    assert merged["a"]["b"] == "hello"


def test_scales_are_different_and_come_largest_first():
    assert load_config(SHIPPED, "CROHME", assignments=["data.scales=[1, 1.25]"]).data.scales == (1.25, 1.0)
    with pytest.raises(ConfigError, match=r"--set data.scales: expected different scales from 0.25 to 4"):
        load_config(SHIPPED, "CROHME", assignments=["data.scales=[1, 1]"])
