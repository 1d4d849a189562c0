"""The training data: latents of the pictures, which are encoded once, and batches as a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HUB
from blocklora_jax.io.open_picture import UnreadableError
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.concepts import CONCEPTS
from blocklora_jax.pocket.references import reference_folder
from blocklora_jax.prompts.random_prompts import RandomPrompts, last_token_ids, make_random_prompts
from train.concept.batch import Batch, OwnPrompts
from train.concept.buckets import Buckets, nearest_bucket, stack_equal, take_rows
from train.concept.caption_choices import CaptionChoices, caption_choices
from train.concept.class_pictures import class_captions, make_class_pictures
from train.concept.codeword_negatives import codeword_negatives
from train.concept.config import ConceptConfig
from train.concept.encode import encode_images
from train.concept.encoded_pictures import encode_pictures
from train.concept.hub_pictures import fetch_pictures
from train.concept.images import Picture, Size, crop, each_picture, name_skipped, place_part
from train.concept.negative_tokens import draw_negative_tokens
from train.concept.own_directions import OwnDirections
from train.concept.own_prompts import own_prompts
from train.concept.picture_captions import Caption, picture_captions
from train.concept.picture_files import PictureFiles, find_pictures
from train.concept.prompts import class_caption, prompt_words
from train.concept.settings.concept_name import ConceptName
from train.concept.settings.erasure import ErasureSettings
from train.concept.views import count_views
from train.engine.platform import first_host_does


class ConceptData(NamedTuple):
    """The data of one concept: views (flips, crops) of each picture, and the ids or states of each caption.

    latents: fp32 [n, h, w, c], scaled. weights: of the loss, fp32 [n, h, w, 1]. ids: int32 [n, t], for SDXL [n, 2, t].
    random_latents: fp32 [o, h, w, c]. Latents and weights are lists if pictures have several shapes.
    ids: after those of the n views come those of their other captions, see `choices`.
    prompts: p random ones; if the class is preserved, one for each row of ids.
    negative_tokens: fp32, by text encoder, one for each prompt. random_text: the encoded prompts; None if a text
    encoder trains. text: the encoded captions; None if a text encoder or a token trains (see
    `train.concept.prepare.cache_states`). own_prompts: for the token side; None if it is off. notes: how many pictures
    are used and which are not, in one line. contact_sheet: the content of a PNG file. choices: other captions of the
    views, None if there are none. has_class_pictures: if the class is preserved, whether the random latents are
    pictures of the class, with a prompt for each.
    """

    latents: Float[np.ndarray, "n h w c"] | list[np.ndarray]
    weights: Float[np.ndarray, "n h w 1"] | list[np.ndarray]
    ids: Int[np.ndarray, "n *e t"]
    random_latents: Float[np.ndarray, "o h w c"] | list[np.ndarray]
    prompts: RandomPrompts
    negative_tokens: Mapping[str, Float[np.ndarray, "p v d"]]
    text: TextOutput | None = None
    random_text: TextOutput | None = None
    own_prompts: OwnPrompts | None = None
    notes: str = ""
    contact_sheet: bytes = b""
    choices: CaptionChoices | None = None
    has_class_pictures: bool = False


def load_concept_data(config: ConceptConfig, sd: StableDiffusion, own: OwnDirections | None = None) -> ConceptData:
    """Read, crop, encode and tokenise everything that `config` names. own: the part of a basis that the concept uses.

    Raises: UserError for pictures, masks or captions that cannot be used, naming the file.
    """
    settings, size = config.data, config.data.resolution or sd.image_size
    if size % sd.models.vae.config.downscale:
        raise UserError(f"--resolution {size} must be a multiple of {sd.models.vae.config.downscale} for this model")
    # Captions are checked before the pictures are encoded, which may take hours.
    files, captions = captioned_pictures(config, sd)
    other_files = find_other_pictures(config)
    per_picture = count_views(settings.crop, settings.flip)
    encoded = encode_pictures(sd, files, [str(caption) for caption in captions], size, settings, config.run.seed)
    latents, weights, kept = encoded.latents, encoded.weights, encoded.kept
    captions = [captions[i] for i in kept]
    texts, choices = caption_choices(captions, config.called, settings, per_picture, config.run.seed)
    ids = sd.tokenizer.encode(texts, config.called.token_vectors)
    random_latents, notes = _random_latents(config, sd, other_files, latents, list(encoded.shapes), size)
    notes = [picture_note("pictures", len(kept), encoded.skipped, encoded.shapes), *notes]
    prompts = _prompts(config, sd, texts, len(random_latents))
    if own is not None and own.codewords is not None and config.token_side.negatives_from == "codewords":
        negative_tokens = codeword_negatives(config.tokens, sd, own, len(prompts.nouns), config.run.seed)
    else:
        negative_tokens = draw_negative_tokens(config.tokens, sd, prompts.nouns, config.run.seed)
    data = ConceptData(
        latents, weights, ids, random_latents, prompts, negative_tokens, notes="; ".join(notes),
        contact_sheet=encoded.contact_sheet, choices=choices,
        has_class_pictures=config.erasure.class_images is not None,
    )  # fmt: skip
    if own is None or not config.token_side.is_on:
        return data
    words = prompt_words(config.model, config.erasure)
    return data._replace(
        own_prompts=own_prompts(words, config.called, list(map(str, captions)), own.owned, sd, config.run.seed)
    )


def captioned_pictures(
    config: ConceptConfig, sd: StableDiffusion, quiet: bool = False
) -> tuple[list[PictureFiles], list[Caption]]:
    """The concept's picture files and their captions. No picture is opened. quiet: see `find_pictures`.

    Raises: UserError for a folder without pictures, and captions or masks that cannot be used.
    """
    files = find_pictures(find_images(config.images), quiet=quiet)
    captions = picture_captions(files, config.called, config.data.caption_prefix)
    sd.tokenizer.encode([str(caption) for caption in captions], config.called.token_vectors)
    return files, captions


def find_other_pictures(config: ConceptConfig) -> list[PictureFiles]:
    """The files of the other pictures that `config` names, if any. Raises: UserError as `find_pictures` does."""
    folder = config.erasure.other_images
    return find_pictures(folder, companions=False) if folder else []


def _random_latents(
    config: ConceptConfig,
    sd: StableDiffusion,
    other_files: Sequence[PictureFiles],
    latents: np.ndarray | list[np.ndarray],
    shapes: Sequence[Size],
    size: int,
) -> tuple[np.ndarray | list[np.ndarray], list[str]]:
    """Latents for the random rows, and notes: of the concept's own pictures, of others, and of pictures of the class.

    latents: of the concept's pictures. shapes: theirs. size: side in pixels of pictures of the class that are made.
    """
    random_latents, notes = latents, []
    if other_files:
        skipped: list[UnreadableError] = []
        others = _crop_to_shapes(each_picture(other_files, skipped), shapes)
        random_latents = stack_equal([*latents, *encode_images(sd, others, len(other_files))])
        notes.append(picture_note("other pictures", len(other_files) - len(skipped), skipped))
    if config.erasure.class_images is not None:
        class_latents, note = _encode_class_pictures(config.erasure, config.called, sd, size, shapes, config.run.seed)
        # Only the class is preserved on its own pictures alone.
        random_latents = stack_equal([*(() if config.erasure.preserves_class else random_latents), *class_latents])
        notes.append(note)
    return random_latents, notes


def _prompts(config: ConceptConfig, sd: StableDiffusion, texts: Sequence[str], pictures: int) -> RandomPrompts:
    """The prompts of the random rows. texts: the concept's captions. pictures: how many the random rows have."""
    if config.erasure.preserves_class:
        has_class_pictures = config.erasure.class_images is not None
        captions = class_captions(config.called, pictures) if has_class_pictures else texts
        return _class_prompts(config.called, sd, captions)
    return make_random_prompts(
        sd.tokenizer,
        prompt_words(config.model, config.erasure),
        config.random_shares,
        config.class_noun,
        (config.token, config.tokens.token_vectors),
        config.run.seed,
    )


def _encode_class_pictures(
    settings: ErasureSettings,
    concept: ConceptName,
    sd: StableDiffusion,
    size: int,
    shapes: Sequence[Size],
    seed: int,
) -> tuple[np.ndarray | list[np.ndarray], str]:
    """Latents of the pictures of the class, each in all `shapes`, and a note. If there are none, the base makes them.

    size: side in pixels of pictures that are made.
    """
    folder, skipped = settings.class_images, []
    assert folder is not None
    first_host_does(lambda: make_class_pictures(folder, settings.class_count, concept, sd, size, seed))
    files = find_pictures(folder, companions=False)
    views = (
        crop(picture, place_part(picture.image.size, shape), shape)
        for picture in each_picture(files, skipped)
        for shape in shapes
    )
    latents = encode_images(sd, views, len(files) * len(shapes))
    return latents, picture_note("pictures of the class", len(files) - len(skipped), skipped)


def _class_prompts(concept: ConceptName, sd: StableDiffusion, captions: Sequence[str]) -> RandomPrompts:
    """`captions` with the class noun in place of the concept, without negative tokens."""
    texts = tuple(class_caption(caption, concept) for caption in captions)
    nouns = last_token_ids(sd.tokenizer, [concept.class_noun] * len(texts))
    return RandomPrompts(sd.tokenizer.encode(texts), nouns, texts)


def _crop_to_shapes(pictures: Iterable[Picture], shapes: Sequence[Size]) -> Iterator[Picture]:
    """The middle of each picture, in the one of `shapes` that is nearest to its own."""
    for picture in pictures:
        shape = nearest_bucket(picture.image.size, shapes)
        yield crop(picture, place_part(picture.image.size, shape), shape)


def picture_note(
    what: str, count: int, skipped: Sequence[UnreadableError], shapes: Mapping[Size, int] | None = None
) -> str:
    """How many pictures are used, and which are not and why: "5 pictures, 1 skipped (a.gif: damaged: …)".

    shapes: how many have which width and height; named if there are several.
    """
    shapes = shapes or {}
    note = f", {len(skipped)} skipped ({name_skipped(skipped)})" if skipped else ""
    sizes = ", ".join(f"{number} of {width} x {height}" for (width, height), number in sorted(shapes.items()))
    shaped = f" in {len(shapes)} shapes ({sizes})" if len(shapes) > 1 else ""
    return f"{count} {what if count != 1 else what.replace('pictures', 'picture')}{shaped}{note}"


def make_batches(
    data: ConceptData, rows: int, random_rows: int, erasure: ErasureSettings, seed: int
) -> Callable[[int], Batch]:
    """`batch_at(step)`: every epoch is a new shuffle of all views; random rows are drawn with replacement.

    All rows of a batch have one shape; see `Buckets.at` for the shape of a step.

    rows, random_rows: their numbers in a step. If the class is preserved without pictures of its own, the random rows
    are the first rows of the batch, with the same numbers.
    """
    buckets, random_buckets = Buckets.of(data.latents), Buckets.of(data.random_latents)

    def batch_at(step: int) -> Batch:
        shape, steps_before = buckets.at(step, seed)
        members, pool = buckets.members[shape], random_buckets.members[shape]
        chosen = members[_shuffled(seed, steps_before * rows, rows, len(members))]
        captions = chosen if data.choices is None else data.choices.draw(chosen, seed, step)
        rng = np.random.default_rng((seed, 1, step))
        prompts = rng.integers(len(data.prompts.ids), size=random_rows)
        pictures = pool[rng.integers(len(pool), size=random_rows)]
        is_noise = rng.random(random_rows) < erasure.pure_noise
        numbers = np.arange(rows, rows + random_rows, dtype=np.int32)
        if erasure.preserves_class and data.has_class_pictures:
            prompts, is_noise = pictures, np.zeros(random_rows, bool)
        elif erasure.preserves_class:
            prompts, pictures = captions[:random_rows], chosen[:random_rows]
            is_noise, numbers = np.zeros(random_rows, bool), numbers - rows
        batch = Batch(
            latents=take_rows(data.latents, chosen),
            weights=take_rows(data.weights, chosen),
            row=np.arange(rows, dtype=np.int32),
            random_latents=take_rows(data.random_latents, pictures),
            random_is_noise=is_noise,
            random_row=numbers,
        )
        pick = lambda whole, rows: jax.tree.map(lambda x: x[rows], whole)
        if data.text is None:
            batch = batch._replace(ids=data.ids[captions])
            if data.own_prompts is not None:
                # A separate generator, so that all other draws are the same as without own prompts.
                own_rows = np.random.default_rng((seed, 3, step)).integers(len(data.own_prompts.ids), size=rows)
                batch = batch._replace(own_prompts=pick(data.own_prompts, own_rows))
        else:
            batch = batch._replace(text=pick(data.text, captions))
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


def find_images(images: Path) -> Path:
    """The folder `images`, that of a dataset ("hub:owner/dataset"), or that of a packaged concept ("ada").

    Raises: UserError as `fetch_pictures` does.
    """
    if str(images).startswith(HUB):
        return fetch_pictures(str(images))
    is_name = len(images.parts) == 1 and not images.exists() and images.name in CONCEPTS
    return reference_folder(images.name) if is_name else images
