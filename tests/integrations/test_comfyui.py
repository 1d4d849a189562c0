"""The nodes for ComfyUI: their interface, what they call, and what they save, with a stand-in for ComfyUI."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import stat
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from comfy_rules import key_map, read_patches
from comfy_stand_in import CORE, load_custom_node, make_folder_paths, sockets, widgets
from safetensors.numpy import load_file, save_file
from torch_lora import kohya_file, random_lora, torch_weights

from blocklora_jax.checks.names import plain_name
from blocklora_jax.layouts.ldm import unet_name, unet_prefixes
from blocklora_jax.layouts.torch_names import to_torch

ROOT = Path(__file__).parents[2]
PACK = ROOT / "integrations" / "comfyui"
Q = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    """The pack as ComfyUI loads it, beside `folder_paths` for folders below tmp_path."""
    monkeypatch.setitem(sys.modules, "folder_paths", make_folder_paths(tmp_path))
    return load_custom_node(PACK)


@pytest.fixture
def nodes(comfy):
    return comfy.NODE_CLASS_MAPPINGS


def add_lora(folder, name, params, seed):
    weight = torch_weights(params, "unet")[f"{Q}.weight"]
    parts = random_lora(weight, 2, np.random.default_rng(seed))
    head = "lora_unet_" + Q.replace(".", "_")
    save_file(kohya_file({head: parts}, {head: 1.0}), folder / "models/loras" / f"{name}.safetensors",
              metadata={"modelspec.trigger_phrase": f"sks {name}"})  # fmt: skip
    return 0.5 * parts["up"] @ parts["down"]


def use_real_command(monkeypatch):
    monkeypatch.setenv("BLOCKLORA_COMMAND", shlex.join([sys.executable, "-m", "merge"]))
    monkeypatch.chdir(ROOT)


def use_fake_command(monkeypatch, folder, code=0, text="wrote it"):
    """A command that notes its arguments and prints `text`."""
    script, log = folder / "fake.py", folder / "calls.json"
    script.write_text(
        "import json, pathlib, sys\n"
        f"log = pathlib.Path({str(log)!r})\n"
        "calls = json.loads(log.read_text()) if log.exists() else []\n"
        "log.write_text(json.dumps([*calls, sys.argv[1:]]))\n"
        f"print({text!r})\nsys.exit({code})\n"
    )
    monkeypatch.setenv("BLOCKLORA_COMMAND", shlex.join([sys.executable, str(script)]))
    return lambda: json.loads(log.read_text())


def test_every_node_has_what_comfyui_asks_for(comfy):
    assert comfy.NODE_CLASS_MAPPINGS.keys() == comfy.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for name, node in comfy.NODE_CLASS_MAPPINGS.items():
        assert inspect.ismethod(node.INPUT_TYPES), name
        kinds = node.INPUT_TYPES()
        assert kinds.keys() <= {"required", "optional", "hidden"}
        inputs = {**kinds["required"], **kinds.get("optional", {})}
        for spec in inputs.values():
            assert isinstance(spec, tuple)
            assert isinstance(spec[0], str | list)
        taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert [*inputs] == [parameter for parameter in taken if parameter != "self"], name
        for optional in kinds.get("optional", {}):
            assert taken[optional].default is not inspect.Parameter.empty
        assert isinstance(node.RETURN_TYPES, tuple)
        assert node.CATEGORY == "blocklora"
        names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
        assert len(names) == len(node.RETURN_TYPES)
        assert getattr(node, "OUTPUT_NODE", False) == (name == "BlockLoRASave")


def test_the_pack_imports_neither_jax_nor_torch_nor_our_library():
    for path in PACK.glob("*.py"):
        found = re.findall(r"^(?:import|from) (\S+)", path.read_text(), re.M)
        assert not {name.split(".")[0] for name in found} & {"jax", "torch", "flax", "blocklora_jax", "merge"}, path


def test_a_stack_holds_files_weights_and_words_and_changes_with_its_file(nodes, tiny_sd, tmp_path):
    add_lora(tmp_path, "ada", tiny_sd.params, 0)
    node = nodes["BlockLoRAStack"]
    assert node.INPUT_TYPES()["required"]["lora"][0] == ["ada.safetensors"]
    (one,) = node().add("ada.safetensors", 0.5, "sks woman")
    (two,) = node().add("ada.safetensors", 1.0, "", "woman", one)
    path = str(tmp_path / "models/loras/ada.safetensors")
    assert [tuple(entry) for entry in two] == [(path, 0.5, "sks woman", ""), (path, 1.0, "", "woman")]
    assert node.VALIDATE_INPUTS("ada.safetensors") is True
    assert "no LoRA" in node.VALIDATE_INPUTS("bob.safetensors")
    before = node.IS_CHANGED(lora="ada.safetensors", weight=1.0, trigger="")
    assert before == node.IS_CHANGED(lora="ada.safetensors", weight=1.0, trigger="")
    Path(path).write_bytes(Path(path).read_bytes() + b" ")
    assert before != node.IS_CHANGED(lora="ada.safetensors", weight=1.0, trigger="")


def test_what_is_saved_is_the_weighted_sum_by_comfyuis_rules(nodes, tiny_sd, tiny_folder, tmp_path, monkeypatch):
    use_real_command(monkeypatch)
    changes = [add_lora(tmp_path, name, tiny_sd.params, seed) for seed, name in enumerate(("ada", "bob"))]
    stack = ()
    for name, weight in (("ada", 0.5), ("bob", -1.0)):
        (stack,) = nodes["BlockLoRAStack"]().add(f"{name}.safetensors", weight, f"sks {name}", "", stack)
    saved = nodes["BlockLoRASave"]().save(stack, "mine/both", 0, "pocket", "sd1")
    (path,) = saved["result"]
    assert path == str(tmp_path / "models/loras/mine/both.safetensors")
    config = json.loads((tiny_folder / "unet/config.json").read_text())
    keys = to_torch("unet", tiny_sd.params["unet"])
    ldm = ["model.diffusion_model." + unet_name(key, unet_prefixes(keys)) for key in keys]
    got, left = read_patches(load_file(path), key_map(ldm, config, []))
    assert not left
    # fp32 products of rank 2, with numbers near 1.
    np.testing.assert_allclose(got["unet", f"{Q}.weight"], 0.5 * changes[0] - changes[1], atol=1e-6)


def test_check_gives_the_heat_map_and_the_report(nodes, tiny_sd, tiny_folder, tmp_path, monkeypatch):
    use_real_command(monkeypatch)
    stack = ()
    for seed, name in enumerate(("ada", "bob")):
        add_lora(tmp_path, name, tiny_sd.params, seed)
        (stack,) = nodes["BlockLoRAStack"]().add(f"{name}.safetensors", 1.0, "", "", stack)
    picture, report = nodes["BlockLoRACheck"]().check(stack, str(tiny_folder))
    assert picture.ndim == 4
    assert picture.shape[0] == 1
    assert picture.shape[-1] == 3
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1
    assert re.search(r"^unet attn2/to_k +ada +bob", report, re.M)
    assert "'ada' and 'bob' overlap" in report


def test_the_joint_fit_gets_all_files_and_words_and_gives_the_fitted_files(nodes, tiny_sd, tmp_path, monkeypatch):
    calls = use_fake_command(monkeypatch, tmp_path)
    stack = ()
    for seed, name in enumerate(("ada", "bob")):
        add_lora(tmp_path, name, tiny_sd.params, seed)
        (stack,) = nodes["BlockLoRAStack"]().add(f"{name}.safetensors", 0.5 + seed, f"sks {name}", "", stack)
    fitted, report = nodes["BlockLoRAFit"]().fit(stack, "pocket", 2.0)
    (arguments,) = calls()
    loras = [str(tmp_path / "models/loras" / f"{name}.safetensors") for name in ("ada", "bob")]
    assert arguments[:3] == ["fit", *loras]
    assert arguments[arguments.index("--trigger") + 1 :][:2] == ["sks ada", "sks bob"]
    assert arguments[arguments.index("--lambda") + 1] == "2.0"
    out = Path(arguments[arguments.index("--out") + 1])
    assert out.parent == tmp_path / "output/blocklora"
    assert [tuple(entry) for entry in fitted] == [
        (str(out / "00-ada.safetensors"), 0.5, "sks ada", ""), (str(out / "01-bob.safetensors"), 1.5, "sks bob", "")
    ]  # fmt: skip
    assert report == "wrote it\n"
    nodes["BlockLoRAFit"]().fit(stack, "pocket", 3.0)
    nodes["BlockLoRAFit"]().fit(stack, "pocket", 3.0, True)
    others = calls()[1:]
    assert ["--keep-strength" in call for call in others] == [False, True]
    assert len({call[call.index("--out") + 1] for call in others} | {str(out)}) == 3
    with pytest.raises(ValueError, match="a trigger for each LoRA of the stack, or for none: bob.safetensors"):
        nodes["BlockLoRAFit"]().fit((stack[0], stack[1]._replace(trigger=" ")), "pocket", 1.0)


def test_the_tuning_gets_all_files_and_weights_and_gives_the_tuned_files(nodes, tiny_sd, tmp_path, monkeypatch):
    calls = use_fake_command(monkeypatch, tmp_path)
    stack = ()
    files = "ada", "bob: v1.0 " + 60 * "字"
    for seed, name in enumerate(files):
        add_lora(tmp_path, name, tiny_sd.params, seed)
        (stack,) = nodes["BlockLoRAStack"]().add(f"{name}.safetensors", 0.5 - seed, f"sks {name}", "", stack)
    tuned, report = nodes["BlockLoRATune"]().tune(stack, "pocket")
    (arguments,) = calls()
    assert arguments[:3] == ["tune", *(str(tmp_path / f"models/loras/{name}.safetensors") for name in files)]
    assert arguments[arguments.index("--weights") + 1 :][:2] == ["0.5", "-0.5"]
    names = arguments[arguments.index("--name") + 1 :][:2]
    assert [plain_name(name, "the concept") for name in names] == names
    out = Path(arguments[arguments.index("--out") + 1])
    assert out.parent == tmp_path / "output/blocklora"
    assert [entry.path for entry in tuned] == [str(out / f"{name}.safetensors") for name in names]
    assert [entry[1:] for entry in tuned] == [entry[1:] for entry in stack]
    assert report == "wrote it\n"


def test_words_that_would_be_read_as_flags_are_refused(nodes, tiny_sd, tmp_path, monkeypatch):
    # A workflow from somebody else could otherwise write to any place.
    use_fake_command(monkeypatch, tmp_path)
    add_lora(tmp_path, "ada", tiny_sd.params, 0)
    (stack,) = nodes["BlockLoRAStack"]().add("ada.safetensors", 1.0, f"--out={tmp_path}/elsewhere", "")
    with pytest.raises(ValueError, match="a trigger must not begin with '-'"):
        nodes["BlockLoRAFit"]().fit(stack, "pocket", 1.0)
    assert not (tmp_path / "calls.json").exists()


def test_conversion_gives_each_lora_the_next_slot(nodes, tiny_sd, tmp_path, monkeypatch):
    calls = use_fake_command(monkeypatch, tmp_path)
    stack = ()
    for seed, name in enumerate(("ada", "bob")):
        add_lora(tmp_path, name, tiny_sd.params, seed)
        (stack,) = nodes["BlockLoRAStack"]().add(f"{name}.safetensors", 1.0, f"sks {name}", "woman", stack)
    converted, _ = nodes["BlockLoRAConvert"]().convert(stack, "pocket", 8, 3, "pocket")
    assert [call[call.index("--slot") + 1] for call in calls()] == ["3", "4"]
    assert [call[call.index("--class-noun") + 1] for call in calls()] == ["woman", "woman"]
    assert [call[call.index("--basis") + 1] for call in calls()] == ["pocket", "pocket"]
    assert [entry.path for entry in converted] == [call[call.index("--out") + 1] for call in calls()]


def test_the_commands_error_is_the_nodes_error(nodes, tiny_sd, tmp_path, monkeypatch):
    add_lora(tmp_path, "ada", tiny_sd.params, 0)
    (stack,) = nodes["BlockLoRAStack"]().add("ada.safetensors", 1.0, "")
    use_fake_command(monkeypatch, tmp_path, 2, "reading\nerror: there is no model x\n")
    with pytest.raises(RuntimeError, match="^there is no model x$"):
        nodes["BlockLoRASave"]().save(stack, "a", 0, "x", "auto")
    monkeypatch.setenv("BLOCKLORA_COMMAND", str(tmp_path / "missing"))
    with pytest.raises(RuntimeError, match="set the environment variable BLOCKLORA_COMMAND"):
        nodes["BlockLoRASave"]().save(stack, "a", 0, "x", "auto")


def test_a_workflow_cannot_write_outside_the_folder_of_loras(nodes, tiny_sd, tmp_path, monkeypatch):
    add_lora(tmp_path, "ada", tiny_sd.params, 0)
    (stack,) = nodes["BlockLoRAStack"]().add("ada.safetensors", 1.0, "")
    use_fake_command(monkeypatch, tmp_path)
    for name in ("../../evil", "/etc/evil", "x/../../y"):
        with pytest.raises(ValueError, match="is outside"):
            nodes["BlockLoRASave"]().save(stack, name, 0, "pocket", "auto")


def test_cancelling_ends_the_command(comfy, tmp_path, monkeypatch):
    script = tmp_path / "slow.py"
    script.write_text("import time\ntime.sleep(60)\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BLOCKLORA_COMMAND", shlex.join([sys.executable, str(script)]))
    command = sys.modules[f"{comfy.__name__}.command"]

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command.call(["fit"], stop)


def test_the_example_fits_the_nodes(nodes):
    workflow = json.loads((PACK / "example_workflows/fit_two_loras.json").read_text())
    by_id = {node["id"]: node for node in workflow["nodes"]}
    assert {node["type"] for node in by_id.values()} >= nodes.keys() - {"BlockLoRAConvert", "BlockLoRATune"}
    for node in by_id.values():
        kind = node["type"]
        ours = nodes.get(kind)
        inputs, count, outputs = (sockets(ours), len(widgets(ours)), ours.RETURN_TYPES) if ours else CORE[kind]
        for given in node["inputs"]:
            assert inputs[given["name"]] == given["type"], (kind, given)
        optional = ours.INPUT_TYPES().get("optional", {}) if ours else {}
        assert {given["name"] for given in node["inputs"]} >= inputs.keys() - optional.keys(), kind
        assert len(node["widgets_values"]) == count, kind
        assert tuple(output["type"] for output in node["outputs"]) == outputs, kind
    for link, source, slot, target, place, kind in workflow["links"]:
        assert by_id[source]["outputs"][slot]["type"] == kind
        assert link in by_id[source]["outputs"][slot]["links"]
        given = by_id[target]["inputs"][place]
        assert (given["type"], given["link"]) == (kind, link)


def test_the_registrys_file_has_the_fields_that_it_asks_for():
    settings = tomllib.loads((PACK / "pyproject.toml").read_text())
    project = settings["project"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"] == {"text": "Apache-2.0"}
    assert "Repository" in project["urls"]
    assert {"PublisherId", "DisplayName", "Icon"} <= settings["tool"]["comfy"].keys()
    assert project["dependencies"] == []
