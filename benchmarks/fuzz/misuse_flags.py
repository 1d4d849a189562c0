"""Every flag of every command, with values that it must not have."""

from __future__ import annotations

from typing import NamedTuple

_WHOLE = (
    "-1",
    "0",
    "1.5",
    "nan",
    "1e9",
    "1000000000",
    str(2**70),
    "9" * 400,
    "",
    "x",
    "٣",
    "1_0",
    "0x10",
    "\x1b[31m",
    "None",
    "true",
)
_NUMBER = ("nan", "inf", "-inf", "-1", "1e400", "1e300", "1e-400", "", "x", "None", "\x1b[31m", "1,5")
_TEXT = (
    "",
    " ",
    "\x1b[31mred",
    "x" * 100_000,
    "a\nb",
    "\u202egnp",
    "{}",
    "a {0} {}",
    "{x.y}",
    "%s%n",
    "日本語",
    "\udcff",
    "<ada",
    "--help",
)
_CHOICE = ("", "x", "None", "\x1b[31m", "IN", "in out")
_INPUT = (
    "",
    ".",
    "nowhere",
    "notes.txt",
    "pictures",
    "empty",
    "zero",
    "pipe",
    "loop",
    "x" * 5000,
    "a\x1b[31mb",
    "~nobody/x",
    "notes.txt/x",
    "single.safetensors",
    "lora.safetensors",
    "registry.json",
    "model/unet/config.json",
    "\udcff",
    "a/b",
    "https://x\x1b[31m/y",
)
_OUTPUT = (
    "",
    ".",
    "/proc/nowhere/x",
    "notes.txt/x",
    "x" * 300,
    "x" * 5000,
    "ada.safetensors",
    "model",
    "model/unet",
    "pictures",
    "pipe",
    "loop",
    "a\x1b[31mb.png",
    "notes.txt",
    "merged",
    "registry.json",
    "empty",
    "\udcff.safetensors",
)
_POOLS = {"whole": _WHOLE, "number": _NUMBER, "text": _TEXT, "choice": _CHOICE, "input": _INPUT, "output": _OUTPUT}

# The models of these cases have no basis file, which the defaults need.
WITHOUT_BASIS = "--basis None --assignment layer --token-side 0 --token-start noun --negatives-from nouns"
_TRAIN = (
    f"{WITHOUT_BASIS} --images pictures --token <ada> --class-noun man --out run --model model --steps 1 --batch 1"
    " --rank 1 --blocks 4 --slot 1 --preview-prompts dog --random-batch 1"
)


class Command(NamedTuple):
    """A call that succeeds: module and args. flags: the kind of value of each. positional: the number of a file."""

    module: str
    args: str
    flags: dict[str, str]
    positional: int | None = None


def _flags(**names: str) -> dict[str, str]:
    return {f"--{name.replace('_', '-')}": kind for kind, words in names.items() for name in words.split()}


COMMANDS: tuple[Command, ...] = (
    Command(
        "merge",
        "ada.safetensors bob.safetensors --model model --prompt dog --steps 1 --out out.png",
        _flags(
            whole="seed steps",
            number="guidance_scale weights",
            text="prompt negative_prompt",
            choice="sampler dtype",
            input="model model_config variant",
            output="out save",
        ),
        0,
    ),
    Command(
        "merge",
        "ada.safetensors bob.safetensors --model model --save saved",
        _flags(number="weights", choice="dtype", input="model variant", output="save"),
        1,
    ),
    Command("merge", "info ada.safetensors", {}, 1),
    Command(
        "merge",
        "check ada.safetensors bob.safetensors --model model --no-crosstalk",
        _flags(input="model", output="out"),
        1,
    ),
    Command(
        "merge",
        "check ada.safetensors bob.safetensors --model model --steps 1",
        _flags(whole="seed steps", text="prompts", input="model variant", output="out"),
        2,
    ),
    Command(
        "merge",
        "export ada.safetensors --out out.safetensors",
        _flags(whole="max_rank", number="weights", choice="layout dtype", output="out"),
        1,
    ),
    Command(
        "merge",
        "fit ada.safetensors plain.safetensors --out fused --model model",
        _flags(number="lambda", text="trigger", choice="kind", input="model", output="out"),
        1,
    ),
    Command(
        "merge",
        "convert lora.safetensors --out refit.safetensors --slot 2 --model model --blocks 4 --trigger sks"
        " --class-noun dog",
        _flags(
            whole="slot blocks partition_seed",
            text="trigger class_noun name",
            choice="axis kind",
            input="model registry",
            output="out",
        ),
        1,
    ),
    Command("merge", "remove merged ada --base model --out less", _flags(input="base variant", output="out"), 1),
    Command(
        "merge",
        "replace merged ada collides.safetensors --base model --out other",
        _flags(number="weight", input="base", output="out"),
        1,
    ),
    Command(
        "merge",
        "plan --concepts 2 --model model",
        _flags(whole="concepts slots rank token_vectors", choice="axis", text="layers", input="model"),
    ),
    Command(
        "merge",
        "registry new new.json --blocks 4",
        _flags(whole="blocks partition_seed", choice="axis", input="model"),
        2,
    ),
    Command(
        "merge", "registry add registry.json bob", _flags(whole="slot count", text="token owner", choice="draw"), 2
    ),
    Command("merge", "registry add registry.json bob", {}, 3),
    Command("merge", "registry list registry.json", {}, 2),
    Command("merge", "registry check registry.json ada.safetensors", {}, 3),
    Command("merge", "registry drop registry.json ada", {}, 3),
    Command(
        "train.concept",
        _TRAIN,
        _flags(
            whole="steps rank batch blocks slot seed resolution token_vectors random_batch partition_seed save_every"
            " log_every warmup_steps",
            number="alpha learning_rate lambda token_spread noise_offset weight_decay clip_norm snr_gamma pure_noise"
            " crop random_shares.negative",
            text="token class_noun preview_prompts random_styles",
            choice="kind axis layers erase weighting precision mapper down save_dtype",
            input="images model registry basis negative_tokens other_images config variant",
            output="out",
        ),
    ),
    Command(
        "train.concepts",
        "--concepts concepts.yaml --out runs --model model --steps 1 --batch 1 --rank 1 --blocks 4",
        _flags(whole="at_once steps blocks", input="concepts model", output="out", text="token"),
    ),
    Command(
        "train.basis",
        "--out basis.safetensors --model model --prompts 4",
        _flags(whole="prompts seed", input="model", output="out"),
    ),
    Command(
        "train.negative_tokens",
        "ada.safetensors --out negative_tokens.safetensors --model model",
        _flags(input="model", output="out"),
        0,
    ),
)


def wrong_calls() -> list[tuple[str, list[str]]]:
    """(module, args) for every flag and file name with every value of its kind."""
    calls = []
    for command in COMMANDS:
        args = command.args.split()
        for flag, kind in command.flags.items():
            at = args.index(flag) if flag in args else None
            rest = args if at is None else args[:at] + args[at + 2 :]
            calls += [(command.module, [*rest, flag, value]) for value in _POOLS[kind]]
        if command.positional is not None:
            at = command.positional
            pool = _TEXT if args[at] in ("ada", "bob") else _OUTPUT if args[at] == "new.json" else _INPUT
            calls += [(command.module, [*args[:at], value, *args[at + 1 :]]) for value in pool]
    return calls
