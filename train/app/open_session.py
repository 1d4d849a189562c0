"""Loads the base model for the app, as training loads it."""

from __future__ import annotations

import sys
from dataclasses import replace

from blocklora_jax.errors import UserError
from train.app.options import AppOptions
from train.app.session import Session
from train.app.settings import training_settings
from train.concept.run import load_base
from train.concept.settings.base import BaseSettings
from train.concept.settings.run import RunSettings
from train.engine.platform import select_platform


def open_session(options: AppOptions) -> Session:
    """Load the model that the options name, onto the hardware and in the precision that `--config` names.

    Without settings that the model can be trained with, the app composes and shares, but cannot teach.

    Raises: UserError for a model or settings that cannot be read.
    """
    model, base, hardware = options.model or "pocket", BaseSettings(variant=options.variant), RunSettings()
    cannot_teach = None
    try:
        settings = training_settings(options)
        model, base, hardware = settings.model, settings.base, settings.run
    except UserError as error:
        if options.config is not None:
            raise
        cannot_teach = error
    platform = select_platform(hardware.tpu, hardware.gpu, hardware.cpu)
    sd = load_base(model, base, platform)
    if cannot_teach is not None:
        print(f"note: this app cannot teach: {cannot_teach}", file=sys.stderr)
    return Session(replace(options, model=model, variant=base.variant), sd)
