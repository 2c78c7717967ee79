"""Image classifiers and their encoder: foreign folders, published weights, images of other sizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from expunge.benchmarks.digits import digits_task
from expunge.data.image_encoder import ImageEncoder
from expunge.errors import DataError, MissingError, UsageError
from expunge.models.classifier import ImageClassifier, build_classifier
from expunge.models.load import load_subject
from expunge.models.resnet import CIFAR10, MEAN, STD, from_cifar10
from expunge.records.run import RunRecord
from expunge.records.settings import TrainSettings
from expunge.records.task import Example, Image
from expunge.saving import model_card

DATA = Path(os.environ.get("EXPUNGE_TEST_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data")
WEIGHTS = DATA / "models" / "resnet_cifar10" / "resnet20-12fca82f.th"


def picture(value: int, channels: int = 1, side: int = 8, answer: str = "b") -> Example:
    image = Image.of(bytes([value]) * channels * side * side, channels, side, side)
    return Example(id=f"{value}", prompt="", answer=answer, kind="image", image=image, options=("a", "b"))


def test_pixels_are_scaled_resized_and_repeated() -> None:
    encoder = ImageEncoder(("a", "b"), (3, 4, 4), mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    rows = [encoder.encode(picture(255)), encoder.encode(picture(0, 3, 4), answer="a"), encoder.encode(picture(255))]
    batch = encoder.collate(rows)
    assert batch.pixels_BCHW.shape == (3, 3, 4, 4) and batch.target_N.tolist() == [1, 0, 1]
    torch.testing.assert_close(batch.pixels_BCHW[0, :, 0, 0], torch.tensor([2.0, 1.0, 0.5]))
    torch.testing.assert_close(batch.pixels_BCHW[1, :, 0, 0], torch.tensor([-2.0, -1.0, -0.5]))
    assert torch.equal(batch.pixels_BCHW[0], batch.pixels_BCHW[2]) and batch.count("tokens") == 3
    assert rows[0].key != rows[1].key and rows[0].key == rows[2].key
    assert [len(few) for few in encoder.batches(rows * 100)] == [256, 44]


def test_unknown_classes_and_rows_without_an_image() -> None:
    encoder = ImageEncoder(("a", "b"), (1, 8, 8))
    lost = encoder.encode(picture(1, answer="c"))
    assert lost.supervised == 0
    (problem,) = encoder.check([lost], None, "forget")
    assert "does not have" in problem.what
    with pytest.raises(DataError, match="class"):
        encoder.collate([lost])
    with pytest.raises(DataError, match="no image"):
        encoder.encode(Example(id="t", prompt="Who?", answer="b"))
    (problem,) = encoder.check([encoder.encode(picture(1, 4))], None, "forget")
    assert "channels" in problem.what


def test_a_built_classifier_has_the_classes_of_its_rows(tmp_path: Path) -> None:
    subject = build_classifier({"model_type": "expunge_cnn"}, [picture(1), picture(2)])
    subject.save(tmp_path)
    again = load_subject(tmp_path)
    assert isinstance(again, ImageClassifier) and again.encoder.classes == ("a", "b")
    assert again.encoder.fingerprint == subject.encoder.fingerprint and again.fingerprint == subject.fingerprint
    assert list(again.blocks) == ["stages.0", "stages.1"] and again.outcomes == 2 and again.width == 64
    with pytest.raises(UsageError, match="images of one size"):
        build_classifier({"model_type": "expunge_cnn"}, [picture(1), picture(2, side=4)])


def test_the_model_card_names_the_class_that_loads_it() -> None:
    subject = build_classifier({"model_type": "expunge_cnn"}, [picture(1), picture(2)])
    record = RunRecord(kind="train", recipe="retain_nll", recipe_full={}, settings=TrainSettings(), model="cnn",
                       model_fingerprint="0", task="digits", task_fingerprints={}, seed=0, environment={})
    card = model_card(record, subject)
    assert "`import expunge.models.cnn` before `AutoModelForImageClassification.from_pretrained`" in card


def test_a_folder_of_transformers_own_classifier_loads(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic",
                          id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ImageEncoder(("a", "b"), (3, 16, 16)).save(tmp_path)
    subject = load_subject(tmp_path)
    assert isinstance(subject, ImageClassifier) and len(subject.blocks) == 2
    rows = [subject.encoder.encode(picture(value)) for value in (3, 200)]
    subject.train()
    with torch.no_grad():
        together = subject.answers(subject.collate(rows)).logp_N
        alone = torch.cat([subject.answers(subject.collate([row])).logp_N for row in rows])
    torch.testing.assert_close(together, alone)  # statistics of batches are held in training too
    assert "running_mean" not in {n for n, _ in subject.model.named_parameters()}


@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the published weights of ResNet-20 (shared data)")
def test_the_published_resnet20_loads_saves_and_answers(tmp_path: Path) -> None:
    model = from_cifar10(WEIGHTS)
    assert sum(p.numel() for p in model.parameters()) == 269_722
    subject = ImageClassifier(model, ImageEncoder(CIFAR10, (3, 32, 32), MEAN, STD))
    subject.save(tmp_path)
    again = load_subject(tmp_path)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (4, 3 * 32 * 32), generator=generator, dtype=torch.uint8)
    rows = [Example(id=str(i), prompt="", answer="cat", kind="image", image=Image.of(bytes(p.tolist()), 3, 32, 32))
            for i, p in enumerate(pixels)]
    batch = again.collate([again.encoder.encode(row) for row in rows])
    with again.evaluating(), subject.evaluating():
        logits_BV = again.answers(batch).logits_NV
        assert torch.equal(logits_BV, subject.answers(batch).logits_NV) and logits_BV.shape == (4, 10)
    assert list(again.blocks) == ["layer1", "layer2", "layer3"]
    with pytest.raises(MissingError):
        from_cifar10(tmp_path / "none.th")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.th")
    with pytest.raises(DataError):
        from_cifar10(tmp_path / "other.th")


def test_digits_split_as_they_say() -> None:
    task = digits_task()
    assert {r.answer for r in task.forget} == {r.answer for r in task.holdout} == {"3"}
    assert "3" not in {r.answer for r in (*task.retain, *task.utility)}
    assert sum(map(len, (task.forget, task.retain, task.holdout, task.utility))) == 1797
    drawn = digits_task(forget="random:0.1")
    assert len(drawn.forget) == round(0.1 * (len(drawn.forget) + len(drawn.retain))) == len(drawn.holdout)
    assert digits_task(forget="random:0.1").fingerprint == drawn.fingerprint
    assert digits_task(forget="random:0.1", seed=1).fingerprint != drawn.fingerprint
    for wrong in ("class:x", "random:2", "3", "random:0.0"):
        with pytest.raises(UsageError):
            digits_task(forget=wrong)


def test_a_language_model_refuses_rows_with_images() -> None:
    from expunge.testing.support import memoriser

    row = digits_task(per_class=4).forget[0]
    with pytest.raises(DataError, match="holds an image, and this model reads text"):
        memoriser().encoder.encode(row)
