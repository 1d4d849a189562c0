"""All commands, one line each. `blocklora` lists all of them; `python -m merge` lists those in `MERGING`."""

from __future__ import annotations

from blocklora_jax.command_line.command import Command

TRAINING = (
    Command("train", "teach a model one concept from pictures", "train.concept.__main__:main"),
    Command("train-many", "teach a model many concepts in one program", "train.concepts:main"),
    Command("basis", "compute the directions of text features that blocks are cut from", "train.basis:main"),
    Command("report", "write report.html of runs, finished or interrupted", "train.report:main"),
    Command("negative-tokens", "collect the tokens of other concepts for erasure", "train.negative_tokens:main"),
)
_MERGING = (
    Command("merge", "merge adapters: pictures, a model folder, or both", "merge.cli.merge:merge_command"),
    Command("info", "print what is in adapter files", "merge.cli.info:print_info"),
    Command("check", "say whether adapters can be merged; measure crosstalk", "merge.cli.check:check_files"),
    Command("export", "write adapters as a LoRA file for PyTorch", "merge.cli.export:export_files"),
    Command("fit", "fit adapters jointly, so that they disturb each other less", "merge.cli.fit:fit_files"),
    Command("tune", "tune the tokens of adapters, so that a large merge keeps more", "merge.cli.tune:tune_files"),
    Command("convert", "convert an external LoRA into blocks", "merge.cli.convert:convert_file"),
    Command("remove", "remove a concept from a merged folder", "merge.cli.remove:remove_files"),
    Command("replace", "replace a concept in a merged folder", "merge.cli.replace:replace_files"),
    Command("plan", "say how many blocks a number of concepts needs", "merge.cli.plan:plan_command"),
    Command("push", "push an adapter to the Hugging Face hub", "merge.cli.push:push_file"),
    Command("library", "list the LoRA files of a folder, with triggers and problems", "merge.cli.library:main"),
    Command("registry", "reserve slots, and list which concept has which", "merge.cli.registry:main"),
)
MERGING = tuple(command._replace(stages=True) for command in _MERGING)
BROWSER = (Command("app", "teach, compose and share concepts in a browser", "train.app.__main__:main"),)
COMMANDS = (*TRAINING, *MERGING, *BROWSER)
