"""What the README says of one's own images holds: its import imports, its words work, its mixtures plan."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaling.cli import main
from scaling.store.opened import open_sources

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def block(beginning: str) -> str:
    """The YAML of the README that begins so."""
    (found,) = (b.split("```")[0] for b in README.split("```yaml\n")[1:] if b.startswith(beginning))
    return found


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the README's import names: drawn films, and scans that pydicom and nibabel ship."""
    pydicom_data = pytest.importorskip("pydicom.data")
    nibabel_data = pytest.importorskip("nibabel.testing").data_path
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "nih" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["file,patient,split,pneumonia"]
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (70, 80), dtype=np.uint8)).save(images / f"{i}.png")
        rows.append(f"{i}.png,p{i // 2},{('train', 'train', 'val', 'test')[i // 2 % 4]},{i % 2}")
    (tmp_path / "nih" / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "ct").mkdir()
    shutil.copy(pydicom_data.get_testdata_file("CT_small.dcm"), tmp_path / "ct")
    (tmp_path / "bids").mkdir()
    shutil.copy(Path(nibabel_data) / "anatomical.nii", tmp_path / "bids")
    (tmp_path / "import.yaml").write_text(block("store: my-store"))
    return tmp_path


def test_the_import_of_the_readme_makes_a_store_that_is_shown_proved_and_swept_over(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "import", "import.yaml", "--workers", "1"]) == 0
    assert main(["data", "import", "import.yaml", "--workers", "1"]) == 0
    assert capsys.readouterr().out.count("nothing to do") == 3
    for word in ("list", "stats", "verify"):
        assert main(["data", word, "my-store"]) == 0
    assert main(["data", "show", "my-store", "--out", "sheet.png"]) == 0
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 500
    modalities = {m for source in open_sources(lab / "my-store")[1].values() for m in source.card.n_by_modality}
    assert modalities == {"xray", "ct", "mr"}
    (lab / "sweep.yaml").write_text(
        "name: own\nquestion: q\ngrid: {model: [vit_atto], algorithm: [mae], n_images: [8], mixture: [natural, flat]}\n"
        + block("data: {source: store").replace("  mr_twice", "  # mr_twice")
        + "pretrain: {images_seen: 16, batch_size: 8}\nprobe: {tasks: all, knn: {k: 2}}\n"
    )
    assert main(["plan", "sweep.yaml"]) == 0
    assert "own: " in capsys.readouterr().out


def test_every_question_to_the_catalog_in_the_readme_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    asked = re.findall(r"`scaling (catalog [a-z ]+)`", README)
    assert "catalog readers dicom" in asked
    for question in asked:
        assert main(question.split()) == 0
        assert capsys.readouterr().out
