"""What our manifests add to the existing format."""

from __future__ import annotations

import pytest

from nemotron.catalog.manifest import ManifestError, Port, RunShape, read_step

FULL = """
[step]
id = "rl/rlhf"

[[consumes]]
name = "policy"
type = ["checkpoint_hf", "checkpoint_megatron"]
config = "policy.model_name"

[[consumes]]
type = "prompt_jsonl"
config = "data.path"
required = false
engines = ["embedded"]

[[produces]]
name = "policy"
type = "checkpoint_megatron"
config = "checkpointing.dir"
select = "best"
engines = ["nemo_rl"]

[[produces]]
name = "policy"
type = "checkpoint_hf"
config = "checkpointing.dir"
engines = ["embedded"]

[[parameters]]
name = "lr"
alias_of = "policy.optimizer.lr"
default = 1e-6

[[errors]]
name = "out_of_memory"
recovery = "smaller batches"
match = "CUDA out of memory"

[run]
engines = ["nemo_rl", "embedded"]
image = "registry.example.org/rl:1"
launch = "ray"
nodes = 2
gpus_per_node = 8
default_config = "small"
"""


@pytest.fixture
def read(tmp_path, write_step):
    def read(toml, **kwargs):
        return read_step(write_step(tmp_path, "rl/rlhf", toml, **kwargs), tmp_path, "here")

    return read


def test_ports_carry_their_config_key_and_engines(read):
    step = read(FULL)
    assert step.consumes == (
        Port("policy", ("checkpoint_hf", "checkpoint_megatron"), config="policy.model_name"),
        Port("prompt_jsonl", ("prompt_jsonl",), required=False, config="data.path", engines=("embedded",)),
    )
    assert step.produces[0].select == "best"
    assert step.warnings == ()


def test_each_engine_has_its_own_ports(read):
    step = read(FULL)
    assert [port.name for port in step.inputs("nemo_rl")] == ["policy"]
    assert [port.name for port in step.inputs("embedded")] == ["policy", "prompt_jsonl"]
    assert [port.type for port in step.outputs("nemo_rl")] == [("checkpoint_megatron",)]
    assert [port.type for port in step.outputs("embedded")] == [("checkpoint_hf",)]
    assert step.outputs() == step.produces


def test_the_run_table_takes_the_place_of_the_header(read):
    header = '# /// script\n# [tool.runspec]\n# image = "other:2"\n# ///\n'
    assert read(FULL, script=header).run == RunShape(
        engines=("nemo_rl", "embedded"),
        image="registry.example.org/rl:1",
        launch="ray",
        nodes=2,
        gpus_per_node=8,
        default_config="small",
    )


def test_a_run_table_without_engines_means_the_script(read):
    assert read("[run]\nnodes = 3\n", script="").engines == ("script",)


def test_aliases_and_log_patterns_are_kept(read):
    step = read(FULL)
    assert step.parameters[0].key == "policy.optimizer.lr"
    assert step.errors[0].match == "CUDA out of memory"


def test_an_unnamed_port_avoids_names_that_a_common_engine_has(read):
    step = read(
        """
        [[produces]]
        type = "checkpoint_hf"
        engines = ["a"]
        [[produces]]
        type = "checkpoint_hf"
        engines = ["b"]
        [[produces]]
        type = "checkpoint_hf"
        [[produces]]
        name = "checkpoint_hf-2"
        type = "checkpoint_lora"
        engines = ["b"]
        """
    )
    assert [port.name for port in step.produces] == [
        "checkpoint_hf",
        "checkpoint_hf",
        "checkpoint_hf-3",
        "checkpoint_hf-2",
    ]


def test_an_empty_manifest_is_a_step(read):
    step = read("")
    assert (step.id, step.name, step.category, step.engines) == ("rl/rlhf", "Rlhf", "rl", ())


def test_dates_are_text_and_infinities_survive_json(read):
    step = read(
        '[[parameters]]\nname = "a"\ndefault = 2026-01-02\n[[parameters]]\nname = "b"\ndefault = inf\n'
    )
    assert [parameter.default for parameter in step.parameters] == ["2026-01-02", float("inf")]
    assert [parameter["default"] for parameter in step.as_dict()["parameters"]] == ["2026-01-02", "inf"]


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path, write_step):
    directory = write_step(tmp_path, "a/b")
    toml = '﻿[step]\r\nid = "a/b"\r\ndescription = """one\r\ntwo"""\r\n[run]\r\nnodes = "x"\r\n'
    (directory / "step.toml").write_bytes(toml.encode())
    with pytest.raises(ManifestError) as caught:
        read_step(directory, tmp_path, "here")
    assert caught.value.line == 6


@pytest.mark.parametrize(
    ("line", "toml", "problem"),
    [
        (1, "step = 3", "step must be a table, not a number"),
        (2, '[step]\ntags = "sft"', "[step] tags must be a list, not a string"),
        (3, '[step]\nname = "x"\ntags = ["a", 3]', "[step] tags must be a list of strings, not of a number"),
        (2, "[step]\nid = 3", "[step] id must be a string, not a number"),
        (2, '[step]\nid = "a b"', "'a b' cannot be a step id"),
        (2, '[step]\nid = "root:a"', "'root:a' cannot be a step id"),
        (2, '[step]\nid = "../a"', "'../a' cannot be a step id"),
        (2, '[step]\nid = "a//b"', "'a//b' cannot be a step id"),
        (1, 'consumes = "training_jsonl"', "consumes must be a list of tables, [[consumes]], not a string"),
        (1, '[consumes]\ntype = "x"', "consumes must be a list of tables, [[consumes]], not a table"),
        (1, "[[consumes]]\ndescription = 'x'", "[[consumes]] has no type"),
        (2, "[[consumes]]\ntype = []", "a port needs at least one type"),
        (2, "[[consumes]]\ntype = ['a', '']", "a port needs at least one type"),
        (2, "[[consumes]]\ntype = 3", "[[consumes]] type must be a string, not a number"),
        (
            5,
            "[[consumes]]\ntype = 'a'\n[[consumes]]\ntype = 'b'\nrequired = 'yes'",
            "required must be true or false",
        ),
        (3, "[[produces]]\ntype = 'a'\nname = 'a=b'", "'a=b' cannot be a port name"),
        (3, "[[produces]]\ntype = 'a'\nengines = 'x'", "[[produces]] engines must be a list, not a string"),
        (2, "[[parameters]]\nname = ''", "[[parameters]] has no name"),
        (
            3,
            "[[parameters]]\nname = 'a'\nchoices = 'b'",
            "[[parameters]] choices must be a list, not a string",
        ),
        (4, "\n\n[[strategies]]\nwhen = 1", "[[strategies]] when must be a string, not a number"),
        (2, "[[errors]]\nname = []", "[[errors]] name must be a string, not a list"),
        (
            3,
            "[[models]]\nname = 'm'\nmin_gpus = true",
            "[[models]] min_gpus must be a whole number, not a boolean",
        ),
        (3, "[[models]]\nname = 'm'\nmin_gpus = 1.5", "[[models]] min_gpus must be a whole number"),
        (1, "reference = []", "reference must be a table, not a list"),
        (2, "[run]\nnodes = '2'", "[run] nodes must be a whole number, not a string"),
        (2, "[run]\nengines = 'ray'", "[run] engines must be a list, not a string"),
        (3, "[step]\nname = 'x'\nname = 'y'", "not valid TOML: Cannot overwrite a value"),
        (2, "[step]\nname = ", "not valid TOML: Invalid value"),
        (2, "[step]\nname = 'never closed", "not valid TOML"),
        (3, '[step]\nname = """never\nclosed\n', "not valid TOML"),
        (1, "x = " + "9" * 5000, "not valid TOML"),
        (None, "x = " + "[" * 3000, "not valid TOML: nested too deeply"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_line(tmp_path, write_step, line, toml, problem):
    directory = write_step(tmp_path, "a/b", "")
    (directory / "step.toml").write_text(toml)
    with pytest.raises(ManifestError) as caught:
        read_step(directory, tmp_path, "here")
    assert problem in caught.value.what
    assert caught.value.line == line
    assert caught.value.where == (f"{directory}/step.toml:{line}" if line else f"{directory}/step.toml")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("line", "header", "problem"),
    [
        (4, ["[tool.runspec]", "image = 3"], "[tool.runspec] image must be a string, not a number"),
        (3, ["tool.runspec = 3"], "tool.runspec in the script header must be a table"),
        (5, ["[tool.runspec]", "", "[tool.runspec"], "not valid TOML"),
        (
            4,
            ["[tool.runspec.resources]", "nodes = '1'"],
            "[tool.runspec.resources] nodes must be a whole number",
        ),
        (4, ["[tool.runspec.config]", 'dir = "a\\u0000b"'], "cannot be a directory"),
    ],
)
def test_a_broken_header_names_the_line_in_the_script(tmp_path, write_step, line, header, problem):
    script = "\n".join(
        ["#!/usr/bin/env python3", "# /// script", *(f"# {text}".rstrip() for text in header), "# ///"]
    )
    directory = write_step(tmp_path, "a/b", script=script)
    with pytest.raises(ManifestError) as caught:
        read_step(directory, tmp_path, "here")
    assert problem in caught.value.what
    assert caught.value.where == f"{directory}/step.py:{line}"


def test_a_script_in_another_encoding_still_has_its_header(tmp_path, write_step):
    directory = write_step(tmp_path, "a/b")
    script = '# coding: latin-1\n# /// script\n# [tool.runspec]\n# image = "i"\n# ///\nname = "caf\xe9"\n'
    (directory / "step.py").write_bytes(script.encode("latin-1"))
    assert read_step(directory, tmp_path, "here").run.image == "i"
