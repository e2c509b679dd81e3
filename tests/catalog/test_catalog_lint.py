"""`steps check`: what is wrong with a step that still loads."""

from __future__ import annotations

import pytest

from nemotron.catalog.lint import check_catalog
from nemotron.errors import NotFound

SOUND = """\
[step]
id = "rl/tune"

[[consumes]]
name = "policy"
type = "checkpoint_hf"
config = "policy.model"

[[produces]]
name = "policy"
type = ["checkpoint_hf"]
config = "out.dir"
engines = ["embedded"]

[[produces]]
name = "policy"
type = "checkpoint_megatron"
config = "out.dir"
engines = ["nemo_rl"]

[[parameters]]
name = "train.steps"
default = 100
choices = [10, 100]

[[parameters]]
name = "train.rate"
default = 1

[[parameters]]
name = "steps"
alias_of = "train.steps"

[[errors]]
name = "oom"
match = "out of memory"

[run]
engines = ["embedded", "nemo_rl"]
launch = "ray"
nodes = 1
gpus_per_node = 0
"""

DEFAULT = """\
policy:
  model: ???
train:
  steps: 100
  rate: 1.0
  extra: ${train.rate}
out:
  dir: null
"""


@pytest.fixture
def check(tmp_path, write_step, load):
    """Findings of one step, made of the sound one by replacing text."""

    def check(old="", new="", *, config=DEFAULT, **kwargs):
        assert not old or SOUND.count(old) >= 1, old
        toml = SOUND.replace(old, new, 1) if old else SOUND + new
        configs = kwargs.pop("configs", {"default.yaml": config})
        write_step(tmp_path / "mine", "rl/tune", toml, configs=configs, **kwargs)
        catalog = load(tmp_path / "mine")
        return [finding for finding in check_catalog(catalog) if str(tmp_path) in (finding.where or "")]

    return check


def test_a_sound_step_has_no_findings(check):
    assert check() == []


MISTAKES = [
    ("[step]\n", "[step]\ndescritpion = 'x'\n", "error unknown_key 2", "'descritpion' is no key of [step]"),
    ("[[parameters]]\n", "[[paramters]]\n", "error unknown_key 21", "'paramters' is no table"),
    ("config =", "confg =", "error unknown_key 7", "'confg' is no key of [[consumes]]"),
    ("gpus_per_node", "gpu_per_node", "error unknown_key 42", "'gpu_per_node' is no key of [run]"),
    ('"checkpoint_hf"', '"checkpoint"', "error unknown_type 6", "port policy: 'checkpoint' is no type"),
    ('["checkpoint_hf"]', '["checkpoint_hf", "model"]', "error unknown_type 11", "'model' is no type"),
    ('["nemo_rl"]', '["embedded"]', "error port_twice 16", "two ports of one engine are named policy"),
    ('engines = ["nemo_rl"]', "", "error port_twice 16", "two ports of one engine are named policy"),
    ('["nemo_rl"]', '["nemorl"]', "warning port_engine 19", "port policy is for engine 'nemorl'"),
    ('"train.rate"', '"train.raet"', "error unreached_key 27", "documents train.raet, which no config"),
    ('alias_of = "train.steps"', 'alias_of = "x.y"', "error unreached_key 32", "steps is an alias of x.y"),
    ('"policy.model"', '"policy.name"', "error unreached_key 7", "policy is bound to policy.name, which no"),
    ('alias_of = "train.steps"', 'alias_of = "steps"', "error alias_circle 32", "leads back to steps"),
    ("[10, 100]", "[10, 50]", "error default_not_a_choice 23", "the default 100 is none of its choices"),
    ("[10, 100]", "[true, '100']", "error default_not_a_choice 23", "the default 100 is none of its choices"),
    ("default = 1\n", "default = 2\n", "warning other_default 28", "the default 2 here, but 1.0 in config"),
    ("default = 1\n", "default = true\n", "warning other_default 28", "the default True here, but 1.0"),
    ('"train.rate"', '"train.steps"', "error parameter_twice 27", "parameter train.steps is there twice"),
    ('"out of memory"', '"out of (memory"', "error bad_match 36", "match is no regular expression"),
    ('launch = "ray"', 'launch = "direct"', "error launch 40", "launch is 'direct'"),
    ("nodes = 1", "nodes = 0", "error resources 41", "nodes is 0"),
    ("gpus_per_node = 0", "gpus_per_node = -1", "error resources 42", "gpus_per_node is -1"),
    ("[run]", '[run]\ndefault_config = "tiny"', "error default_config 39", "'tiny' is none of its configs"),
    ('id = "rl/tune"', 'id = "rl/tuning"', "warning id_not_directory 2", "not the step's directory, rl/tune"),
]


@pytest.mark.parametrize(("old", "new", "expected", "message"), MISTAKES)
def test_a_mistake_in_the_manifest_is_found_at_its_line(check, old, new, expected, message):
    found = {f"{f.severity} {f.id.removeprefix('catalog.')}": f for f in check(old, new)}
    kind, _, line = expected.rpartition(" ")
    assert message in found[kind].message
    assert found[kind].where.endswith(f"rl/tune/step.toml:{line}")


@pytest.mark.parametrize(
    ("old", "new", "nearest"),
    [
        ("[[parameters]]\n", "[[paramters]]\n", "parameters"),
        ("config =", "confg =", "config"),
        ('"checkpoint_hf"', '"checkpoint_fh"', "checkpoint_hf"),
        ('"train.rate"', '"train.raet"', "train.rate"),
        ('"policy.model"', '"policy.modle"', "policy.model"),
        ('launch = "ray"', 'launch = "direct"', "ray"),
        ("[10, 100]", "[10, 50]", "10"),
    ],
)
def test_a_mistake_comes_with_what_would_be_right(check, old, new, nearest):
    assert check(old, new)[0].valid.split(", ")[0] == nearest


def test_aliases_that_lead_in_a_circle_are_found(check):
    more = '[[parameters]]\nname = "a"\nalias_of = "b"\n[[parameters]]\nname = "b"\nalias_of = "a"\n'
    circles = [finding.message for finding in check(new=more) if finding.id == "catalog.alias_circle"]
    assert circles == [
        "rl/tune: parameter a: alias_of leads back to a",
        "rl/tune: parameter b: alias_of leads back to b",
    ]


def test_a_default_that_the_config_computes_is_not_compared(check):
    more = '[[parameters]]\nname = "train.extra"\ndefault = 5\n'
    assert check(new=more) == []


def test_a_key_of_any_config_counts(check):
    configs = {"default.yaml": "train: {steps: 100, rate: 1}\n", "full.yaml": DEFAULT}
    assert check(configs=configs) == []


def test_a_key_of_an_included_file_counts(check):
    configs = {"base.yaml": DEFAULT, "default.yaml": "defaults: base.yaml\n"}
    assert check(configs=configs) == []


def test_a_broken_config_is_one_error_with_its_line_and_hides_no_key(check):
    configs = {"default.yaml": "train:\n  steps: 100\n", "broken.yaml": "a: 1\nb: [1,\n"}
    (finding,) = check(configs=configs)
    assert (finding.id, finding.severity) == ("catalog.broken_config", "error")
    assert "config broken" in finding.message
    assert "broken.yaml:" in finding.where


def test_a_step_without_configs_or_readme_has_one_warning_for_each(check):
    found = [(finding.id, finding.severity) for finding in check(configs={}, readme=False)]
    assert found == [("catalog.no_readme", "warning"), ("catalog.no_configs", "warning")]


def test_a_config_under_both_suffixes_is_named(check):
    (finding,) = check(configs={"default.yaml": DEFAULT, "default.yml": "other: 1\n"})
    assert (finding.id, finding.severity) == ("catalog.config_twice", "warning")
    assert finding.where.endswith("default.yml")


def test_a_header_beside_a_run_table_is_named(check):
    (finding,) = check(script='# /// script\n# [tool.runspec]\n# image = "x"\n# ///\n')
    assert (finding.id, finding.severity) == ("catalog.header_unused", "warning")


def test_a_header_is_checked_in_the_script(tmp_path, write_step, load):
    script = """\
        # /// script
        # [tool.runspec]
        # imgae = "x"
        # [tool.runspec.run]
        # launch = "direct"
        # [tool.runspec.config]
        # default = "small"
        # [tool.runspec.resources]
        # nodes = -1
        # gpu_per_node = 8
        # ///
        """
    directory = write_step(tmp_path, "a/b", script=script, configs={"default.yaml": "x: 1\n"})
    found = [(f.id, f.where) for f in check_catalog(load(tmp_path), "a/b")]
    assert found == [
        ("catalog.unknown_key", f"{directory}/step.py:3"),
        ("catalog.unknown_key", f"{directory}/step.py:10"),
        ("catalog.launch", f"{directory}/step.py:5"),
        ("catalog.resources", f"{directory}/step.py:9"),
        ("catalog.default_config", f"{directory}/step.py:7"),
    ]


def test_nothing_to_run_a_step_with_is_a_warning(tmp_path, write_step, load):
    write_step(tmp_path, "a/b", configs={"default.yaml": "x: 1\n"})
    assert [finding.id for finding in check_catalog(load(tmp_path), "a/b")] == ["catalog.no_engine"]


def test_inputs_of_the_existing_format_are_one_warning_a_step(existing, load):
    catalog = load(existing)
    found = [(f.id, f.severity) for f in check_catalog(catalog, "tune/toolkit")]
    assert found == [("catalog.unbound", "warning")]
    assert [f.id for f in check_catalog(catalog, "plain/step_without_words")] == [
        "catalog.no_engine",
        "catalog.no_readme",
        "catalog.no_configs",
        "catalog.stray_entry",
    ]


def test_broken_steps_and_roots_are_errors_and_one_can_be_asked_for(tmp_path, write_step, load):
    write_step(tmp_path / "mine", "a/bad", "[step\n")
    write_step(tmp_path / "mine", "a/good", configs={"default.yaml": "x: 1\n"}, script="")
    catalog = load(tmp_path / "mine", tmp_path / "gone")
    broken = [f for f in check_catalog(catalog) if f.id == "catalog.broken"]
    assert [(f.severity, f.where) for f in broken] == [
        ("error", f"{tmp_path}/mine/a/bad/step.toml:1"),
        ("error", f"{tmp_path}/gone"),
    ]
    assert check_catalog(catalog, "a/bad") == check_catalog(catalog, "mine:a/bad") == (broken[0],)
    assert check_catalog(catalog, "a/good") == ()
    with pytest.raises(NotFound) as caught:
        check_catalog(catalog, "a/goood")
    assert caught.value.nearest == ("a/good",)


def test_shadowed_steps_are_checked_and_noted(tmp_path, write_step, load):
    write_step(tmp_path / "one", "a/b", configs={"default.yaml": "x: 1\n"}, script="")
    write_step(tmp_path / "two", "a/b", '[step]\nnaem = "x"\n', configs={"default.yaml": "x: 1\n"}, script="")
    found = [
        (f.id, f.severity)
        for f in check_catalog(load(tmp_path / "one", tmp_path / "two"))
        if "/two/" in f.where
    ]
    assert found == [("catalog.unknown_key", "error"), ("catalog.shadowed", "note")]


CONVERTER = (
    '[step]\nid = "{id}"\n[[consumes]]\ntype = "{takes}"\nconfig = "x"\n[[produces]]\ntype = "{leaves}"\n'
)


def test_a_conversion_must_name_a_step_that_does_it(tmp_path, write_step, load):
    (tmp_path / "types.toml").write_text(
        '[hf]\nconvert_to = { megatron = "c/there", lora = "c/ther", tiny = "c/broken" }\n'
        '[megatron]\nconvert_to = { hf = "c/there" }\n'
        '[lora]\nconvert_to = { megatron = "c/adapter" }\n[tiny]\n'
    )
    write_step(tmp_path, "c/there", CONVERTER.format(id="c/there", takes="hf", leaves="megatron"))
    write_step(tmp_path, "c/adapter", CONVERTER.format(id="c/adapter", takes="lora", leaves="hf"))
    write_step(tmp_path, "c/broken", "[")
    found = [
        f for f in check_catalog(load(tmp_path)) if f.id.startswith("types.") and str(tmp_path) in f.where
    ]
    assert [(f.severity, f.message, f.where.rpartition(":")[2]) for f in found] == [
        ("warning", "type hf: convert_to lora names 'c/ther', which is no step", "2"),
        ("warning", "type megatron: convert_to hf names c/there, which does not consume megatron", "4"),
        ("warning", "type lora: convert_to megatron names c/adapter, which does not produce megatron", "6"),
    ]
    assert found[0].valid.startswith("c/there")


def test_types_that_cannot_be_read_do_not_make_every_type_unknown(tmp_path, write_step, load):
    write_step(
        tmp_path, "a/b", '[[produces]]\ntype = "anything"\n', configs={"default.yaml": "x: 1\n"}, script=""
    )
    (tmp_path / "types.toml").write_text("[")
    catalog = load(tmp_path)
    assert check_catalog(catalog, "a/b") == ()
    assert [f.where for f in check_catalog(catalog) if f.id == "catalog.broken"] == [
        f"{tmp_path}/types.toml:1"
    ]
