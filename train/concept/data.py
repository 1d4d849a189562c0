"""The training data: latents of the pictures, which are encoded once, and batches as a function of (seed, step)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.concepts import CONCEPTS
from blocklora_jax.pocket.references import reference_folder
from blocklora_jax.prompts.random_prompts import RandomPrompts, last_token_ids, make_random_prompts
from blocklora_jax.prompts.tokenizer import token_pattern
from train.concept.batch import Batch, OwnPrompts
from train.concept.captions import read_captions
from train.concept.codeword_negatives import codeword_negatives
from train.concept.config import ConceptConfig
from train.concept.encode import encode_images
from train.concept.encoded_pictures import encode_pictures
from train.concept.images import crop_square, each_picture, name_skipped
from train.concept.negative_tokens import draw_negative_tokens
from train.concept.open_picture import UnreadableError
from train.concept.own_directions import OwnDirections
from train.concept.own_prompts import own_prompts
from train.concept.picture_files import PictureFiles, find_pictures
from train.concept.prompts import captions_for, class_caption, prompt_words
from train.concept.settings.concept_name import ConceptName
from train.concept.settings.erasure import ErasureSettings
from train.concept.views import count_views


class ConceptData(NamedTuple):
    """The data of one concept: views (flips, crops) of each picture, and the ids or states of each caption.

    latents: fp32 [n, h, w, c], scaled. weights: of the loss, fp32 [n, h, w, 1]. ids: int32 [n, t], for SDXL [n, 2, t].
    random_latents: fp32 [o, h, w, c]. prompts: p random ones; if the class is preserved, one for each view.
    negative_tokens: fp32, by text encoder, one for each prompt. random_text: the encoded prompts; None if a text
    encoder trains. text: the n encoded captions; None if a text encoder or a token trains (see
    `train.concept.prepare.cache_states`). own_prompts: for the token side; None if it is off. notes: how many pictures
    are used and which are not, in one line. contact_sheet: the content of a PNG file.
    """

    latents: Float[np.ndarray, "n h w c"]
    weights: Float[np.ndarray, "n h w 1"]
    ids: Int[np.ndarray, "n *e t"]
    random_latents: Float[np.ndarray, "o h w c"]
    prompts: RandomPrompts
    negative_tokens: Mapping[str, Float[np.ndarray, "p v d"]]
    text: TextOutput | None = None
    random_text: TextOutput | None = None
    own_prompts: OwnPrompts | None = None
    notes: str = ""
    contact_sheet: bytes = b""


def load_concept_data(config: ConceptConfig, sd: StableDiffusion, own: OwnDirections | None = None) -> ConceptData:
    """Read, crop, encode and tokenise everything that `config` names. own: the part of a basis that the concept uses.

    Raises: UserError for pictures, masks or captions that cannot be used, naming the file.
    """
    settings, size = config.data, config.data.resolution or sd.image_size
    if size % sd.models.vae.config.downscale:
        raise UserError(f"--resolution {size} must be a multiple of {sd.models.vae.config.downscale} for this model")
    files = find_pictures(find_images(config.images))
    other_images = config.erasure.other_images
    other_files = find_pictures(other_images, companions=False) if other_images else []
    captions, per_picture = _captions(files, config.called), count_views(settings.crop, settings.flip)
    # Captions are checked before the pictures are encoded, which may take hours.
    ids = sd.tokenizer.encode(captions, config.called.token_vectors)
    encoded = encode_pictures(sd, files, captions, size, settings, config.run.seed)
    latents, weights, kept = encoded.latents, encoded.weights, encoded.kept
    captions, ids = [captions[i] for i in kept], np.repeat(ids[kept], per_picture, axis=0)
    notes = [_note("pictures", len(kept), encoded.skipped)]
    random_latents = latents
    if other_files:
        skipped: list[UnreadableError] = []
        squares = (crop_square(picture, size) for picture in each_picture(other_files, skipped))
        random_latents = np.concatenate([latents, encode_images(sd, squares, len(other_files))])
        notes.append(_note("other pictures", len(other_files) - len(skipped), skipped))
    if config.erasure.preserves_class:
        prompts = _class_prompts(config.called, sd, [caption for caption in captions for _ in range(per_picture)])
    else:
        prompts = make_random_prompts(
            sd.tokenizer,
            prompt_words(config.model, config.erasure),
            config.random_shares,
            config.class_noun,
            (config.token, config.tokens.token_vectors),
            config.run.seed,
        )
    if own is not None and own.codewords is not None and config.token_side.negatives_from == "codewords":
        negative_tokens = codeword_negatives(config.tokens, sd, own, len(prompts.nouns), config.run.seed)
    else:
        negative_tokens = draw_negative_tokens(config.tokens, sd, prompts.nouns, config.run.seed)
    data = ConceptData(
        latents, weights, ids, random_latents, prompts, negative_tokens, notes="; ".join(notes),
        contact_sheet=encoded.contact_sheet,
    )  # fmt: skip
    if own is None or not config.token_side.is_on:
        return data
    words = prompt_words(config.model, config.erasure)
    return data._replace(own_prompts=own_prompts(words, config.called, captions, own.owned, sd, config.run.seed))


def _class_prompts(concept: ConceptName, sd: StableDiffusion, captions: list[str]) -> RandomPrompts:
    """`captions` with the class noun in place of the concept, without negative tokens."""
    texts = tuple(class_caption(caption, concept) for caption in captions)
    nouns = last_token_ids(sd.tokenizer, [concept.class_noun] * len(texts))
    return RandomPrompts(sd.tokenizer.encode(texts), nouns, texts)


def _note(what: str, count: int, skipped: list[UnreadableError]) -> str:
    """How many pictures are used, and which are not and why: "5 pictures, 1 skipped (a.gif: damaged: …)"."""
    note = f", {len(skipped)} skipped ({name_skipped(skipped)})" if skipped else ""
    return f"{count} {what if count != 1 else what.removesuffix('s')}{note}"


def make_batches(
    data: ConceptData, rows: int, random_rows: int, erasure: ErasureSettings, seed: int
) -> Callable[[int], Batch]:
    """`batch_at(step)`: every epoch is a new shuffle of all views; random rows are drawn with replacement.

    rows, random_rows: their numbers in a step. If the class is preserved, the random rows are the first rows of the
    batch, with the same numbers.
    """
    count = len(data.latents)

    def batch_at(step: int) -> Batch:
        chosen = _shuffled(seed, step * rows, rows, count)
        rng = np.random.default_rng((seed, 1, step))
        prompts = rng.integers(len(data.prompts.ids), size=random_rows)
        pictures = rng.integers(len(data.random_latents), size=random_rows)
        is_noise = rng.random(random_rows) < erasure.pure_noise
        numbers = np.arange(rows, rows + random_rows, dtype=np.int32)
        if erasure.preserves_class:
            prompts = pictures = chosen[:random_rows]
            is_noise, numbers = np.zeros(random_rows, bool), numbers - rows
        batch = Batch(
            latents=data.latents[chosen],
            weights=data.weights[chosen],
            row=np.arange(rows, dtype=np.int32),
            random_latents=data.random_latents[pictures],
            random_is_noise=is_noise,
            random_row=numbers,
        )
        pick = lambda whole, rows: jax.tree.map(lambda x: x[rows], whole)
        if data.text is None:
            batch = batch._replace(ids=data.ids[chosen])
            if data.own_prompts is not None:
                # A separate generator, so that all other draws are the same as without own prompts.
                own_rows = np.random.default_rng((seed, 3, step)).integers(len(data.own_prompts.ids), size=rows)
                batch = batch._replace(own_prompts=pick(data.own_prompts, own_rows))
        else:
            batch = batch._replace(text=pick(data.text, chosen))
        if data.random_text is None:
            return batch._replace(
                random_ids=data.prompts.ids[prompts], random_tokens=pick(data.negative_tokens, prompts)
            )
        return batch._replace(random_text=pick(data.random_text, prompts))

    return batch_at


def _shuffled(seed: int, start: int, rows: int, count: int) -> Int[np.ndarray, " rows"]:
    positions = np.arange(start, start + rows)
    orders = {e: np.random.default_rng((seed, 0, e)).permutation(count) for e in set((positions // count).tolist())}
    return np.array([orders[p // count][p % count] for p in positions.tolist()])


def _captions(files: list[PictureFiles], concept: ConceptName) -> list[str]:
    """The text of each picture's caption file. Pictures without one get the templates in turn."""
    paths = [each.caption for each in files if each.caption]
    written = {
        path: _check_caption(text, path, concept) for path, text in zip(paths, read_captions(paths), strict=True)
    }
    templates = captions_for(concept)
    return [
        written[each.caption] if each.caption else templates[index % len(templates)] for index, each in enumerate(files)
    ]


def _check_caption(caption: str, path: Path, concept: ConceptName) -> str:
    """`caption`; if the token has no vectors, without the token. Raises: UserError for a caption without the token."""
    token = token_pattern([concept.token])
    if re.search(token, caption):
        return caption if concept.vectors else " ".join(re.sub(token, " ", caption).split())
    raise UserError(
        f"{printable(str(path))}: the caption {caption[:200]!r} lacks the token {concept.token}: write the token"
        f" and the class noun, as in 'a photo of {concept.trigger}', or remove the file"
    )


def find_images(images: Path) -> Path:
    """The folder `images`, or the folder of the packaged concept of that name ("ada")."""
    is_name = len(images.parts) == 1 and not images.exists() and images.name in CONCEPTS
    return reference_folder(images.name) if is_name else images
