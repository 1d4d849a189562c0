"""The bench on a model from a folder and on folders of concepts, up to the report, compared with transformers."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from encoder_builders import IMAGENET, save_clip, save_dino, save_model
from PIL import Image
from safetensors.numpy import load_file
from transformers import BitImageProcessor, CLIPImageProcessor, CLIPModel, CLIPTokenizer, Dinov2Model

from benchmarks.modular.__main__ import available, main
from benchmarks.modular.core.methods import FEATURE_BLOCKS, METHODS, RECIPES
from benchmarks.modular.options import HEADLINE
from benchmarks.modular.worlds import faces
from benchmarks.modular.worlds.encoder_measures import Encoders, Looks, RealMeasures
from benchmarks.modular.worlds.encoders import ClipEncoder, ImageEncoder, Preprocessing
from benchmarks.modular.worlds.folder import RealConcept, equal_rank, read_folder
from benchmarks.modular.worlds.sentences import CATEGORIES, SENTENCES, Sentences
from benchmarks.modular.worlds.table import POCKET, real_world
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from train.concept.config import parse_args

ODD_SIZES = [(37, 91), (301, 225), (224, 225), (33, 33), (500, 101), (1023, 769)]


def random_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def concept(name: str, kind: str, noun: str = "dog") -> RealConcept:
    flags = ["--images", ".", "--token", f"<{name}>", "--class-noun", noun, "--out", ".", "--kind", kind]
    return RealConcept(parse_args(flags))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return SimpleNamespace(
        clip=save_clip(folder / "clip", 8, 24), large=save_clip(folder / "large", 2), dino=save_dino(folder / "dino"),
        sd=save_model(folder / "sd"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def concepts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("concepts")
    for seed, (name, noun) in enumerate({"rex": "dog", "una": "owl"}.items()):
        (folder / name).mkdir()
        (folder / name / "concept.yaml").write_text(f"class_noun: {noun}\nkind: object\n")
        for i, size in enumerate([(40, 29), (31, 52), (48, 48)]):
            random_picture(*size, seed=10 * seed + i).save(folder / name / f"{i}.png")
    (folder / "rex" / "0.txt").write_text("a photo of <rex> dog in the snow")
    return folder


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
@pytest.mark.parametrize(
    "processor",
    [CLIPImageProcessor(), BitImageProcessor(size={"shortest_edge": 256}, **IMAGENET)],
    ids=["CLIP", "DINOv2"],
)
def test_pictures_become_inputs_as_in_transformers(tmp_path, size, processor):
    processor.save_pretrained(tmp_path)
    picture = random_picture(*size)
    expected = processor(picture, return_tensors="np")["pixel_values"][0]
    actual = Preprocessing.read(tmp_path)(picture)
    assert actual.shape == expected.shape == (3, 224, 224)
    # Rounding of fp32; one grey level would be 0.015.
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_the_old_form_of_a_preprocessor_file_is_read(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    old = {"size": 224, "crop_size": 224, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    path.write_text(json.dumps(old))
    found = Preprocessing.read(tmp_path)
    assert (found.edge, found.crop, found.resample) == (224, 224, Image.Resampling.BICUBIC)
    for change, words in (
        ({"do_resize": False}, "do_resize"),
        ({"crop_size": 300}, "300"),
        ({"size": {}}, "shortest_edge"),
    ):
        path.write_text(json.dumps({**old, **change}))
        with pytest.raises(UserError, match=words):
            Preprocessing.read(tmp_path)


def test_a_folder_with_another_model_is_refused(models):
    with pytest.raises(UserError, match="Dinov2Model"):
        ImageEncoder(str(models.clip)).images([random_picture(40, 40)])
    with pytest.raises(UserError, match="no folder"):
        ClipEncoder(str(models.clip / "nothing here")).texts(["a dog"])


@pytest.mark.parametrize("kind", ["person", "object", "scene", "style"])
def test_real_prompts_have_four_categories_and_their_plain_form_calls_none(kind):
    for noun in ("dog", "owl"):
        prompts = Sentences.read().concept_prompts(concept("ada", kind, noun), 20)
        assert [p.category for p in prompts] == [c for c in CATEGORIES for _ in range(5)]
        assert len({p.text for p in prompts}) == 20
        article, wrong = (f"{a} {noun}" for a in (("an", "a") if noun == "owl" else ("a", "an")))
        for prompt in prompts:
            assert prompt.text.count(f"<ada> {noun}") == 1 and "{" not in prompt.text
            assert "<" not in prompt.plain and noun in prompt.plain.split()
            assert wrong not in prompt.plain
        assert sum(article in p.plain for p in prompts) >= 12
    few = Sentences.read().concept_prompts(concept("ada", kind), 6)
    assert [p.category for p in few] == ["recontextualised"] * 2 + ["restyled"] * 2 + ["company", "property"]


def test_tasks_of_real_concepts_call_two_concepts():
    sentences = Sentences.read()
    mixed = [
        concept("a", "person", "man"),
        concept("b", "object"),
        concept("c", "scene", "garden"),
        concept("d", "style", "mosaic"),
    ]
    for pair in sentences.pair_prompts(mixed, 4):
        assert [pair.first.name, pair.second.name] == ["a", "b"] and "<a> man" in pair.text and "<b> dog" in pair.text
    found = sentences.stylised_prompts(mixed, 4)
    assert [pair.first.name for pair in found] == ["a", "a", "b", "b"] and all("<d> mosaic" in p.text for p in found)
    assert len(sentences.plain_prompts(mixed)) == 12 and not any(
        "<" in words for words in sentences.plain_prompts(mixed)
    )


def test_malformed_sentences_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("person: {recontextualised: ['a photo of nobody']}")
    with pytest.raises(UserError, match="person/recontextualised.*nobody"):
        Sentences.read(path)
    path.write_text("people: {}")
    with pytest.raises(UserError, match="'people'"):
        Sentences.read(path)


def test_rank_without_blocks_trains_as_many_numbers():
    layers = [(768, 320)] * 10 + [(768, 640)] * 10 + [(768, 1280)] * 12
    ours = sum(16 * (n / 16 + m) for n, m in layers)
    rank = equal_rank(layers, 16, 16, "in")
    assert rank == 9 and ours == pytest.approx(sum(rank * (n + m) for n, m in layers), rel=0.06)
    assert equal_rank(layers, 16, 1, "grid") == 16


class FakeFaces:
    """A fake encoder that reads faces from pixels: the first pixels of a row are the vector of a face."""

    def faces(self, picture: Image.Image) -> np.ndarray:
        rows = np.asarray(picture, np.float32)[:, 0]
        return np.stack([row / np.linalg.norm(row) for row in rows if row.any()] or [np.zeros(3)])[
            : int(rows.any()) * 9
        ]


def faced(*people: int) -> np.ndarray:
    """A picture uint8 [1, 8, 8, 3] with a face of each of the people 0, 1, 2, the largest first."""
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    for row, person in enumerate(people):
        picture[0, row, 0, person] = 255
    return picture


def test_people_are_detected_by_their_faces(monkeypatch):
    ada, ben = concept("ada", "person", "woman"), concept("ben", "person", "man")
    measures = RealMeasures([ada, ben], Encoders(faces="opencv", same_person=0.6))
    blank = np.ones((2, 3), np.float32)
    for name in ("clip", "large", "dino"):
        fake = SimpleNamespace(
            images=lambda x: np.ones((len(x), 3), np.float32) / 3**0.5, texts=lambda x: np.ones((len(x), 3)) / 3**0.5
        )
        monkeypatch.setitem(measures.__dict__, name, fake)
    monkeypatch.setitem(measures.__dict__, "face", FakeFaces())
    own = {
        c.name: [np.eye(3, dtype=np.float32)[[i]], np.eye(3, dtype=np.float32)[[i, 2]]]
        for i, c in enumerate((ada, ben))
    }
    monkeypatch.setitem(measures.__dict__, "_own", {n: Looks(blank, blank, blank, f) for n, f in own.items()})
    pictures = np.concatenate([faced(2, 0), faced(1), faced(), faced(0)])
    scores = measures.score(ada, pictures, ["a woman"] * 4, [ada, ben])
    assert scores.identity.tolist() == [1, 0, 0, 1] and scores.right.tolist() == [1, 0, 0, 1]
    assert scores.leakage.tolist() == [0, 1, 0, 0]
    pair: Any = SimpleNamespace(first=ada, second=ben)
    assert measures.both_there(pair, np.concatenate([faced(0, 1), faced(0, 0), faced()])).tolist() == [
        True,
        False,
        False,
    ]


def test_faces_are_found_at_a_size_that_the_detector_knows_the_largest_first(monkeypatch, tmp_path):
    seen = []

    class Detector:
        def setInputSize(self, size):
            seen.append(size)

        def detect(self, picture):
            boxes = np.array([[0, 0, 2, 3] + [0] * 11, [1, 1, 9, 9] + [0] * 11], np.float32)
            return 1, None if picture.shape[1] > 320 else boxes

    class Recogniser:
        def alignCrop(self, picture, box):
            return box

        def feature(self, crop):
            return crop[None, :4]

    made = {
        "FaceDetectorYN": SimpleNamespace(create=lambda *a: Detector()),
        "FaceRecognizerSF": SimpleNamespace(create=lambda *a: Recogniser()),
    }
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(**made))
    with pytest.raises(UserError, match="face_detection_yunet"):
        faces.FaceEncoder(str(tmp_path), str(tmp_path)).faces(random_picture(20, 10))
    for name in (faces.DETECTOR_FILE, faces.ENCODER_FILE):
        (tmp_path / name).touch()
    found = faces.FaceEncoder(str(tmp_path), str(tmp_path)).faces(random_picture(1000, 500))
    assert seen == [(640, 320), (320, 160)]
    np.testing.assert_allclose(found, [np.array([1, 1, 9, 9]) / 164**0.5, np.array([0, 0, 2, 3]) / 13**0.5], rtol=1e-6)


def test_the_error_without_opencv_names_the_extra_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"blocklora_jax\[faces\]"):
        faces.FaceEncoder(str(tmp_path), str(tmp_path)).faces(random_picture(20, 10))
    monkeypatch.setattr("benchmarks.modular.worlds.encoder_measures.is_installed", lambda: False)
    assert "stands in" in Encoders().told and Encoders(faces="opencv").sees_faces


def _world(models, concepts) -> list[str]:
    return ["--model", str(models.sd), "--concepts", str(concepts)]


def test_unusable_folders_and_flags_are_refused(concepts, models, tmp_path):
    with pytest.raises(UserError, match="token_vectors"):
        read_folder(concepts, FEATURE_BLOCKS | {"token_vectors": 0})
    (tmp_path / "one").mkdir()
    with pytest.raises(UserError, match=r"concept\.yaml"):
        read_folder(tmp_path, {})
    with pytest.raises(UserError, match="3 concepts.*there are 2"):
        main([*_world(models, concepts), "--counts", "1", "3", "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="--quick measures anew and --table"):
        main(["--quick", "--table"])
    with pytest.raises(UserError, match="--concepts"):
        main(["--model", str(models.sd)])


def test_a_real_model_without_a_basis_has_no_methods_that_need_one(concepts, models, tmp_path):
    sd = StableDiffusion.from_pretrained(str(models.sd))
    world = real_world(sd, concepts, {}, 16, Encoders())
    need_one = {name for name, method in METHODS.items() if RECIPES[method.recipe]["basis"]}
    assert set(available((), world)) == set(HEADLINE) - need_one and available((), POCKET) == HEADLINE
    with pytest.raises(UserError, match="quiet needs a basis of this model's text"):
        available(("wide", "quiet"), world)
    settings = {"basis": str(tmp_path / "basis.safetensors"), "blocks": 64}
    assert real_world(sd, concepts, settings, 16, Encoders()).recipes["quiet"]["basis"] == settings["basis"]


def test_the_bench_runs_on_a_real_model_and_reports_what_transformers_measures(concepts, models, tmp_path):
    out = tmp_path / "out"
    encoders = {"clip": models.clip, "clip-large": models.large, "dino": models.dino, "faces": "none"}
    flags = [flag for name, value in encoders.items() for flag in (f"--encoders.{name}", str(value))]
    flags += [*_world(models, concepts), "--counts", "1", "2", "--steps", "2", "--batch", "2", "--at-once", "2"]
    flags += ["--prompts", "4", "--sampler-steps", "2", "--seeds", "0", "--methods", "blocklora", "average"]
    main([*flags, "--out", str(out)])
    report = json.loads((out / "report.json").read_text())
    row = next(row for row in report["rows"]["all"] if (row["method"], row["n"]) == ("average", 2))
    drawn = load_file(out / "seed-0/results/average-2.safetensors")
    assert {key: x.shape for key, x in drawn.items()} == {
        "rex": (4, 16, 16, 3),
        "una": (4, 16, 16, 3),
        "plain": (12, 16, 16, 3),
        "pairs": (12, 16, 16, 3),
        "apart": (12, 16, 16, 3),
        "refined": (12, 16, 16, 3),
    }
    expected = [
        measured_by_transformers(models, concepts / name, name, noun, drawn[name])
        for name, noun in (("rex", "dog"), ("una", "owl"))
    ]
    # A clipped score of zero would agree with anything.
    assert all(e["clip_score"] > 0.05 and e["image"] > 0.05 for e in expected)
    for score in expected[0]:
        # The same networks and pictures, in fp32; embeddings in batches of another size.
        assert row[score][0] == pytest.approx(np.mean([e[score] for e in expected]), abs=2e-5), score
    assert report["rows"]["object"][-1]["dino"] == report["rows"]["all"][-1]["dino"]
    assert (
        row["identity"] == row["dino"]
        and 0 <= row["both"][0] <= 1
        and 0 <= row["apart"][0] <= 1
        and 0 <= row["refined"][0] <= 1
        and "stands in" in report["identity"]
    )
    table = (out / "table.md").read_text()
    assert "averaged" in table and "its own pictures" in table and "DINOv2 kept" in table
    assert {path.name for path in out.glob("*.png")} == {
        "all.png",
        "apart.png",
        "curves.png",
        "crosstalk-blocklora.png",
        "crosstalk-plain.png",
        "grid.png",
        "pairs.png",
    }
    # Results of other prompts are not used with these.
    other = tmp_path / "other.yaml"
    shutil.copy(SENTENCES, other)
    with pytest.raises(UserError, match="holds results with sentences None, and now it is .*: use another --out"):
        main([*flags, "--sentences", str(other), "--out", str(out)])
    # The result files alone give the same table in another folder, without adapters and pictures.
    kept = tmp_path / "kept"
    shutil.copytree(out / "seed-0/results", kept / "seed-0/results", ignore=shutil.ignore_patterns("*.safetensors"))
    main([*flags, "--table", "--out", str(kept)])
    assert (kept / "table.md").read_text() == table and (kept / "curves.png").is_file()
    assert not (kept / "seed-0/blocklora").exists()
    with pytest.raises(UserError, match=r"blocks-alone\.json is not there: measure it"):
        main([*flags, "blocks", "--table", "--out", str(kept)])


def measured_by_transformers(models, folder, name, noun, pictures) -> dict[str, float]:
    """Mean scores of a concept's pictures, computed with the processors and models of transformers."""
    asked = Sentences.read().concept_prompts(concept(name, "object", noun), 4)
    references = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]
    images, found = [Image.fromarray(p) for p in pictures], {}
    for suffix, path in (("", models.clip), ("_large", models.large)):
        model, tokenizer = CLIPModel.from_pretrained(path).eval(), CLIPTokenizer.from_pretrained(path)
        pixels = CLIPImageProcessor.from_pretrained(path)(images + references, return_tensors="pt")
        words = [p.plain for p in asked] + [f"A photo depicts {p.plain}" for p in asked]
        with torch.no_grad():
            seen = model(**pixels, **tokenizer(words, padding=True, return_tensors="pt"))
        x, own, texts = seen.image_embeds[:4], seen.image_embeds[4:], seen.text_embeds
        found[f"text{suffix}"] = (x * texts[:4]).sum(1).mean().item()
        found[f"image{suffix}"] = (x @ own.T).clamp(min=0).mean().item()
        if not suffix:
            found["clip_score"] = (2.5 * (x * texts[4:]).sum(1).clamp(min=0)).mean().item()
    pixels = BitImageProcessor.from_pretrained(models.dino)(images + references, return_tensors="pt")
    with torch.no_grad():
        x = torch.nn.functional.normalize(Dinov2Model.from_pretrained(models.dino).eval()(**pixels).pooler_output)
    found["dino"] = (x[:4] @ x[4:].T).mean().item()
    return found
