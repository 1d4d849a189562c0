"""All commands, one line each. `blocklora` lists all of them, `python -m merge` those of merging."""

from __future__ import annotations

from blocklora_jax.command_line.command import Command

TRAINING = (
    Command("train", "teach a model one concept from pictures", "train.concept.__main__:main"),
    Command("train-many", "teach a model many concepts in one program", "train.concepts:main"),
    Command("basis", "find the directions of text features to cut blocks in", "train.basis:main"),
    Command("negative-tokens", "gather the tokens of other concepts for erasure", "train.negative_tokens:main"),
)
MERGING = (
    Command("merge", "merge adapters: pictures, a model folder, or both", "merge.cli.merge:merge_command"),
    Command("info", "print what is in adapter files", "merge.cli.info:print_info"),
    Command("check", "say whether adapters can be merged; measure crosstalk", "merge.cli.check:check_files"),
    Command("export", "write adapters as a LoRA file for PyTorch", "merge.cli.export:export_files"),
    Command("fit", "fit adapters that share weights to each other", "merge.cli.fit:fit_files"),
    Command("convert", "convert an ordinary LoRA into blocks", "merge.cli.convert:convert_file"),
    Command("remove", "take a concept out of a merged folder", "merge.cli.remove:remove_files"),
    Command("replace", "exchange a concept of a merged folder", "merge.cli.replace:replace_files"),
    Command("plan", "say how many blocks a number of concepts needs", "merge.cli.plan:plan_command"),
    Command("registry", "give out slots, and list who owns which", "merge.cli.registry:main"),
)
COMMANDS = (*TRAINING, *MERGING)
